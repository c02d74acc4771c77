"""Does a larger kernel put out the same?"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from dni import (
    ContinuousConv,
    GaussianMask,
    KernelNetwork,
    Origin,
    Piece,
    PieceState,
    apply_change,
    extend_kernel_change,
    fit_,
    follow_pieces,
    narrow_kernel_change,
    resample_kernel_change,
    widen_kernel_change,
)

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(2, 3, 4), (2, 2, 9)),
    "valid": (lambda: nn.Conv1d(2, 3, 1, padding="valid"), (2, 2, 9)),
    "strided": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=(0, 1)), (2, 2, 9, 8)),
    "dilated": (lambda: nn.Conv2d(2, 3, (3, 1), dilation=(2, 3), padding=1), (2, 2, 9, 8)),
    "grouped": (lambda: nn.Conv2d(4, 4, 3, groups=2, padding="same"), (2, 4, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(2, 2, (1, 3, 2)), (1, 2, 3, 4, 4)),
}


@pytest.mark.parametrize("by", [2, 4])
@pytest.mark.parametrize("name", LAYERS)
def test_wider_kernel_puts_out_the_same_and_narrows_back_to_the_same_next_step(name: str, by: int) -> None:
    make, shape = LAYERS[name]
    layer, x = make().double(), torch.randn(shape, dtype=torch.float64)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer(x).square().sum().backward()
    optimizer.step()
    twin = copy.deepcopy(layer)
    moments = optimizer.state[layer.weight]
    before = layer(x).detach()
    pieces = [PieceState(piece=Piece("conv.weight"), state=moments)]
    for change in (widen_kernel_change, narrow_kernel_change):
        own, old = change(layer, "conv", by=by)["conv.weight"], layer.weight
        fit_(layer, {"weight": apply_change(old, own)})
        torch.testing.assert_close(layer(x).detach(), before, rtol=0, atol=1e-12)
        shapes = {"shape": tuple(old.shape), "value": layer.weight}
        pieces = follow_pieces(pieces, own, optimizer=optimizer, group=optimizer.param_groups[0], **shapes)
        if change is widen_kernel_change:
            assert layer.weight.shape[2:] == tuple(size + by for size in twin.weight.shape[2:])
            assert int((layer.weight != 0).sum()) == twin.weight.numel()
            assert len(pieces) > 1
    assert torch.equal(layer.weight, twin.weight) and torch.equal(layer(x), before)
    (whole,) = pieces
    assert whole.piece.box == ()
    assert whole.state.keys() == moments.keys() and all(torch.equal(whole.state[key], moments[key]) for key in moments)


def test_ring_lies_around_the_kernel() -> None:
    change = widen_kernel_change(nn.Conv2d(2, 2, (3, 1)), "0.conv")
    (name, own), *others = change.items()
    assert name == "0.conv.weight" and not others and own.value is None and own.memory == "keep"
    assert [axis.axis for axis in own.axes] == [2, 3]
    assert own.axes[0].origin == Origin.insert([0, 4], num_old=3)
    assert own.axes[1].origin == Origin.insert([0, 2], num_old=1)


def test_kernels_that_cannot_change_are_refused() -> None:
    with pytest.raises(TypeError, match="but up is ConvTranspose2d"):
        widen_kernel_change(nn.ConvTranspose2d(2, 2, 3), "up")
    with pytest.raises(ValueError, match="has padding_mode 'circular'"):
        widen_kernel_change(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "conv")
    with pytest.raises(ValueError, match=r"an even number, 2 or more, .* got 3"):
        widen_kernel_change(nn.Conv2d(2, 2, 3), "conv", by=3)
    with pytest.raises(ValueError, match=r"more than 2 wide to lose that, got \(3, 2\)"):
        narrow_kernel_change(nn.Conv2d(2, 2, (3, 2), padding=1), "conv")
    with pytest.raises(ValueError, match=r"only as much .* 1 times the dilation \(2,\) of conv, got padding \(1,\)"):
        narrow_kernel_change(nn.Conv1d(2, 2, 3, padding=1, dilation=2), "conv")


def _continuous() -> ContinuousConv:
    network, mask = KernelNetwork(hidden=4, omega=2.0), GaussianMask(width=0.2, crop_below=0.0)
    keyed = torch.Generator().manual_seed(0)
    return ContinuousConv(1, 2, 5, network=network, mask=mask, generator=keyed).double()


def test_continuous_kernel_of_a_higher_resolution_is_the_same_where_it_was_sampled() -> None:
    conv = _continuous()
    before, old = conv.kernel(), conv.sampling
    change = resample_kernel_change(conv, "conv", 9)["conv.sampling"]
    assert change.value is not None and not change.axes
    conv.sampling = change.value
    torch.testing.assert_close(conv.kernel()[..., ::2, ::2] * 4, before, rtol=1e-12, atol=0)
    assert old.tolist() == [5, 1, 4, 5]


def test_continuous_kernel_of_a_farther_horizon_has_the_same_taps_and_the_same_output_under_its_mask() -> None:
    conv, x = _continuous(), torch.randn(2, 1, 9, 9, dtype=torch.float64)
    kernel, before = conv.kernel(), conv(x)
    value = extend_kernel_change(conv, "conv", 9)["conv.sampling"].value
    assert value is not None
    conv.sampling = value
    torch.testing.assert_close(conv.kernel()[..., 2:-2, 2:-2], kernel, rtol=1e-12, atol=0)
    torch.testing.assert_close(conv(x), before, rtol=0, atol=1e-8)
    fresh = _continuous()
    fresh.load_state_dict(conv.state_dict())
    assert fresh.size == 9 and torch.equal(fresh(x), conv(x))


@pytest.mark.parametrize("change", [resample_kernel_change, extend_kernel_change])
def test_continuous_kernel_of_as_many_taps_stays_and_of_an_even_number_is_refused(change: Any) -> None:
    assert change(_continuous(), "conv", 5) == {}
    with pytest.raises(ValueError, match=r"must be odd.*Take 9"):
        change(_continuous(), "conv", 8)
