"""Does a convolution have the kernel that was planned, and the same output where that is promised?"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dni import ContinuousConv, ExtendKernel, ResampleKernel, WidenKernel, map_tensor, widen_kernel
from tests.dni.events.stage import KEYED, FakeStage, mlp, planned


@pytest.mark.parametrize("padding", [1, "same", "valid"])
def test_wider_kernel_with_its_padding_has_the_same_output(padding: int | str) -> None:
    conv = nn.Conv2d(2, 3, (3, 5), padding=padding, dilation=2).double()
    plan = planned(WidenKernel(layers=("0",), by=4), FakeStage(nn.Sequential(conv)))
    [(name, change)] = plan.tensors.items()
    wide = copy.deepcopy(conv)
    wide.weight = nn.Parameter(map_tensor(conv.weight, change.axes, "value"))
    ring = widen_kernel(conv.weight.detach(), padding=conv.padding, dilation=conv.dilation)
    ring = widen_kernel(ring.weight, padding=ring.padding, dilation=conv.dilation)
    assert name == "0.weight" and torch.equal(wide.weight.detach(), ring.weight)
    wide.padding = ring.padding
    x = torch.randn(2, 2, 12, 12).double()
    torch.testing.assert_close(wide(x), conv(x), rtol=0, atol=1e-12)
    assert str(plan) == "widen the kernel of 0 from 3x5 to 7x9"


def test_kernel_that_cannot_be_widened_is_refused() -> None:
    with pytest.raises(ValueError, match="if it is a Conv1d, Conv2d or Conv3d, got Linear"):
        WidenKernel(layers=("0",)).plan(mlp(3, 2), step=0, keyed=KEYED)
    with pytest.raises(ValueError, match=r"5 wide at most, but widening 3 by 4 makes it 7\."):
        WidenKernel(layers=("0",), by=4, at_most=5).plan(
            FakeStage(nn.Sequential(nn.Conv1d(2, 3, 3))), step=0, keyed=KEYED
        )
    for by in (0, 3):
        with pytest.raises(ValueError, match="evenly on both sides"):
            WidenKernel(layers=("0",), by=by)
    assert WidenKernel(layers=("9",)).plan(mlp(3, 2), step=0, keyed=KEYED) is None


def test_continuous_kernels_are_sampled_as_their_own_methods_do() -> None:
    conv = ContinuousConv(2, 3, 5, num_axes=1)
    stage = FakeStage(nn.Sequential(conv))
    for action, twin in (
        (ResampleKernel(layers=("0",), size=9), conv.resampled(9)),
        (ExtendKernel(layers=("0",), size=9), conv.extended(9)),
    ):
        plan = planned(action, stage)
        assert torch.equal(plan.tensors["0.sampling"].value, twin.sampling)
        assert str(plan) == f"{action.name} of 0 from 5 to 9 taps".replace(" kernel", " the kernel")
    assert ResampleKernel(layers=("0",), size=5).plan(stage, step=0, keyed=KEYED) is None
    with pytest.raises(ValueError, match="must be odd"):
        ExtendKernel(layers=("0",), size=8).plan(stage, step=0, keyed=KEYED)
    with pytest.raises(ValueError, match="must be that of a ContinuousConv"):
        ExtendKernel(layers=("0",), size=9).plan(mlp(3, 2), step=0, keyed=KEYED)
    with pytest.raises(ValueError, match="2 taps or more"):
        ResampleKernel(layers=("0",), size=1)
