"""Is a continuous kernel a convolution, the same function at every resolution, and an ordinary module?"""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from dni import ContinuousConv, GaussianMask, KernelNetwork

SMOOTH = KernelNetwork(hidden=8, omega=2.0)
WHOLE = GaussianMask(width=0.5, crop_below=0.0)


def _conv(size: int = 5, *, channels: tuple[int, int] = (2, 3), **options: Any) -> ContinuousConv:
    options = {"num_axes": 1, "network": SMOOTH, "generator": torch.Generator().manual_seed(0)} | options
    return ContinuousConv(*channels, size, **options).double()


def _with(conv: ContinuousConv, sampling: Tensor) -> ContinuousConv:
    """A copy that is sampled so."""
    other = copy.deepcopy(conv)
    other.sampling = sampling
    return other


def _resampled(conv: ContinuousConv, size: int) -> ContinuousConv:
    return _with(conv, conv.resampling(size))


def _extended(conv: ContinuousConv, size: int) -> ContinuousConv:
    return _with(conv, conv.extension(size))


def _value(conv: ContinuousConv, place: tuple[float, ...]) -> Tensor:
    """K(x) times g(x) at one place, (C_out, C_in/groups)."""
    value = conv.network(torch.tensor([place], dtype=torch.float64))[0].detach()
    if conv.mask_mean is not None and conv.mask_width is not None:
        for x, mean, width in zip(place, conv.mask_mean.tolist(), conv.mask_width.tolist(), strict=True):
            value = value * math.exp(-(((x - mean) / width) ** 2) / 2)
    return value.view(conv.out_channels, -1)


@pytest.mark.parametrize("mask", [None, WHOLE])
@pytest.mark.parametrize("causal", [False, True])
def test_output_on_a_line_is_that_of_a_loop(causal: bool, mask: GaussianMask | None) -> None:
    conv = _conv(5, mask=mask, causal=causal)
    with torch.no_grad():
        conv.bias += torch.arange(3)
    x = torch.randn(2, 2, 9, dtype=torch.float64)
    found = conv(x)
    assert found.shape == (2, 3, 9)
    for n in range(9):
        wanted = torch.arange(3, dtype=torch.float64).expand(2, 3).clone()
        for tap in range(5):
            place = n + tap - (4 if causal else 2)
            if 0 <= place < 9:
                wanted += x[:, :, place] @ _value(conv, (-1 + tap / 2,)).T
        torch.testing.assert_close(found[:, :, n].detach(), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_output_on_a_plane_is_that_of_a_loop(groups: int) -> None:
    conv = _conv(3, channels=(2, 4), num_axes=2, mask=WHOLE, groups=groups, bias=False)
    with torch.no_grad():
        assert conv.mask_mean is not None and conv.mask_width is not None
        conv.mask_mean.copy_(torch.tensor([0.1, -0.2]))
        conv.mask_width.copy_(torch.tensor([0.4, 0.7]))
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64)
    found = conv(x)
    for out in range(4):
        inputs = range(2) if groups == 1 else [out // 2]
        for row in range(4):
            for column in range(5):
                wanted = sum(
                    float(_value(conv, (float(i - 1), float(j - 1)))[out, c])
                    * float(x[0, channel, row + i - 1, column + j - 1])
                    for c, channel in enumerate(inputs)
                    for i in range(3)
                    for j in range(3)
                    if 0 <= row + i - 1 < 4 and 0 <= column + j - 1 < 5
                )
                assert float(found[0, out, row, column].detach()) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_causal_output_knows_nothing_of_what_comes_later() -> None:
    conv = _conv(4, causal=True)
    x = torch.randn(1, 2, 8, dtype=torch.float64)
    later = x.clone()
    later[:, :, 5:] += 1.0
    assert torch.equal(conv(x)[:, :, :5], conv(later)[:, :, :5]) and not torch.equal(conv(x), conv(later))


def _bump(places: Tensor) -> Tensor:
    return torch.exp(-(places**2) / 2) * torch.cos(places)


def _refined(conv: ContinuousConv, factor: int) -> Tensor:
    """The output at the places of the coarse grid, -6 to 6, on a signal sampled `factor` times as finely."""
    places = torch.arange(-6 * factor, 6 * factor + 1, dtype=torch.float64) / factor
    x = _bump(places)
    x = x.outer(x) if conv.num_axes == 2 else x
    y: Tensor = _resampled(conv, (conv.size - 1) * factor + 1)(x.expand(1, 1, *x.shape)).detach()
    return y[..., ::factor, ::factor] if conv.num_axes == 2 else y[..., ::factor]


@pytest.mark.parametrize(("num_axes", "causal"), [(1, False), (1, True), (2, False)])
def test_refined_kernel_converges_at_first_order(num_axes: Literal[1, 2], causal: bool) -> None:
    """As a sum does that counts both ends of its range whole."""
    conv = _conv(5, channels=(1, 2), num_axes=num_axes, causal=causal)
    one, two, four, eight = (_refined(conv, factor) for factor in (1, 2, 4, 8))
    differences = [float((b - a).abs().max()) for a, b in ((one, two), (two, four), (four, eight))]
    assert differences[0] > 0.1 and 1.9 < differences[1] / differences[2] < 2.4


def test_refined_kernel_converges_to_an_integral() -> None:
    """y(t) = ∫ K(s) g(s) x(t + s / δ_0) ds / δ_0, by Simpson's rule; at once where the mask vanishes at the ends."""
    weights = torch.ones(2001, dtype=torch.float64)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    places = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    for mask, bound in ((None, 0.05), (GaussianMask(width=0.2, crop_below=0.0), 1e-6)):
        conv = _conv(5, channels=(1, 2), mask=mask)
        values = torch.stack([_value(conv, (float(place),))[:, 0] for place in places], dim=1)
        found = _refined(conv, 8)[0]
        for t in (-2, 0, 3):
            wanted = (weights * values * _bump(t + 2 * places)).sum(1) * (2 / 2000) / 3 * 2
            assert float((found[:, t + 6] - wanted).abs().max()) < bound < 0.2 * float(found.abs().max())


def test_unscaled_taps_would_not_converge() -> None:
    """A sum of twice the taps is twice as large: the scale is what makes it an integral."""
    conv = _conv(9, channels=(1, 1))
    assert torch.allclose(_resampled(conv, 17).kernel()[..., ::2] * 2, conv.kernel(), rtol=1e-12)
    assert torch.equal(_resampled(_resampled(conv, 17), 9).kernel(), conv.kernel())


def test_extended_kernel_has_the_same_taps_and_more_beyond_which_a_narrow_mask_leaves_out() -> None:
    for causal in (False, True):
        conv = _conv(5, mask=GaussianMask(width=0.2, crop_below=0.0), causal=causal)
        wide = _extended(conv, 9).kernel()
        inside = slice(4, None) if causal else slice(2, -2)
        torch.testing.assert_close(wide[..., inside], conv.kernel(), rtol=1e-12, atol=0)
        x = torch.randn(2, 2, 12, dtype=torch.float64)
        bound = 800 * math.exp(-((2.5 if causal else 1.5) ** 2) / (2 * 0.2**2))
        assert float((_extended(conv, 9)(x) - conv(x)).detach().abs().max()) <= bound < 1e-9
    free = _conv(5)
    assert not torch.allclose(_extended(free, 9)(x), free(x)), "without a mask it is another function"


def test_new_sampling_leaves_parameters_optimiser_and_graphs_on_their_way() -> None:
    conv = _conv(3, channels=(1, 1), mask=WHOLE)
    twin = copy.deepcopy(conv)
    optimizer = torch.optim.Adam(conv.parameters(), lr=0.01)
    x = torch.randn(4, 1, 8, dtype=torch.float64)
    on_its_way = conv(x).square().mean()
    conv.sampling = conv.resampling(5)
    on_its_way.backward()
    twin(x).square().mean().backward()
    for own, other in zip(conv.parameters(), twin.parameters(), strict=True):
        assert own.grad is not None and other.grad is not None and torch.equal(own.grad, other.grad)
    optimizer.step()
    conv.sampling = conv.extension(7)
    optimizer.zero_grad()
    conv(x).square().mean().backward()
    optimizer.step()
    assert conv.size == 7 and twin.size == 3
    assert {float(state["step"]) for state in optimizer.state.values()} == {2.0}


def test_functional_call_samples_as_it_is_told() -> None:
    conv, x = _conv(5), torch.randn(2, 2, 9, dtype=torch.float64)
    found = torch.func.functional_call(conv, {"sampling": conv.resampling(9)}, (x,))
    assert torch.equal(found, _resampled(conv, 9)(x)) and conv.size == 5


def test_outer_taps_are_cropped_where_the_mask_is_low_and_return_as_it_widens() -> None:
    conv = _conv(33, channels=(1, 1), num_axes=2, mask=GaussianMask())
    assert conv.kernel().shape[2:] == (5, 5)
    full = _conv(33, channels=(1, 1), num_axes=2, mask=GaussianMask(crop_below=0.0))
    full.load_state_dict(conv.state_dict())
    torch.testing.assert_close(full.kernel()[..., 14:19, 14:19], conv.kernel(), rtol=1e-10, atol=1e-12)
    assert conv.mask_width is not None and conv.mask_mean is not None
    with torch.no_grad():
        conv.mask_width.copy_(torch.tensor([0.3, 0.0]))
    assert conv.kernel().shape[2:] == (21, 1) and torch.isfinite(conv.kernel()).all()
    with torch.no_grad():
        conv.mask_mean.fill_(50.0)
    assert conv(torch.ones(1, 1, 6, 6, dtype=torch.float64)).shape == (1, 1, 6, 6)
    causal = _conv(33, channels=(1, 1), mask=GaussianMask(), causal=True)
    assert causal.kernel().shape[2:] == (3,) and causal(torch.ones(1, 1, 4, dtype=torch.float64)).shape == (1, 1, 4)


@pytest.mark.parametrize("activation", ["sine", "relu"])
@pytest.mark.parametrize(("num_axes", "size", "mask"), [(1, 31, None), (2, 9, None), (2, 33, GaussianMask())])
def test_white_noise_keeps_its_variance_at_the_start(
    activation: Literal["sine", "relu"], num_axes: Literal[1, 2], size: int, mask: GaussianMask | None
) -> None:
    conv = _conv(
        size,
        channels=(4, 500),
        num_axes=num_axes,
        mask=mask,
        network=KernelNetwork(activation=activation, weight_norm=True),
    )
    power = conv.kernel().detach().square().sum() / 500
    assert float(power) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("weight_norm", [False, True])
def test_it_is_copied_pickled_saved_and_trained_like_any_module(weight_norm: bool) -> None:
    network = KernelNetwork(hidden=8, omega=2.0, weight_norm=weight_norm)
    stage = nn.Sequential(_conv(5, num_axes=2, mask=WHOLE, network=network), nn.ReLU())
    stage[0] = _resampled(stage[0], 9)
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    y = stage(x)
    assert torch.equal(copy.deepcopy(stage)(x), y) and torch.equal(pickle.loads(pickle.dumps(stage))(x), y)
    saved = io.BytesIO()
    torch.save(stage.state_dict(), saved)
    saved.seek(0)
    other = nn.Sequential(_conv(5, num_axes=2, mask=WHOLE, network=network, generator=None), nn.ReLU())
    other.load_state_dict(torch.load(saved, weights_only=True))
    assert other[0].size == 9 and torch.equal(other(x), y)
    assert torch.equal(stage.float().double()[0].sampling, other[0].sampling)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stage.parameters())


def test_sizes_that_cannot_be_are_refused() -> None:
    for size, take in ((4, 5), (1, 3), (0, 3), (-2, 3)):
        with pytest.raises(ValueError, match=f"must be odd, .* at least 3, got {size}. Take {take}"):
            _conv(size)
    conv = _conv(5)
    with pytest.raises(ValueError, match=r"got 8\. Take 9"):
        conv.resampling(8)
    with pytest.raises(ValueError, match=r"got 8\. Take 9"):
        conv.extension(8)
    with pytest.raises(ValueError, match="at least 2 taps, got 1"):
        _conv(1, causal=True)
    with pytest.raises(ValueError, match="a causal one 1; got 2, causal True"):
        _conv(3, num_axes=2, causal=True)
    with pytest.raises(ValueError, match="groups must divide both channels, got 2 to 3 channels in 2 groups"):
        _conv(3, groups=2)
    with pytest.raises(ValueError, match=r"expects \(N, 2, L\), got \(4, 3, 8\)"):
        conv(torch.ones(4, 3, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"at least 0\.0001, got 0"):
        GaussianMask(width=0)
    with pytest.raises(ValueError, match=r"in \[0, 1\), got 1"):
        GaussianMask(crop_below=1.0)
