"""Does a convolution have the kernel that was planned, and the same output where that is promised?"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dni import ContinuousConv, ExtendKernel, ResampleKernel, WidenKernel, apply_change, fit_
from tests.dni.events.stage import KEYED, FakeStage, mlp, planned


@pytest.mark.parametrize("padding", [1, "same", "valid"])
def test_wider_kernel_with_its_padding_has_the_same_output(padding: int | str) -> None:
    conv = nn.Conv2d(2, 3, (3, 5), padding=padding, dilation=2).double()
    plan = planned(WidenKernel(layers=("0",), by=4), FakeStage(nn.Sequential(conv)))
    [(name, change)] = plan.tensors.items()
    x = torch.randn(2, 2, 12, 12).double()
    before, ring = conv(x), F.pad(conv.weight.detach(), (2, 2, 2, 2))
    fit_(conv, {"weight": apply_change(conv.weight, change)})
    assert name == "0.weight" and torch.equal(conv.weight, ring)
    torch.testing.assert_close(conv(x), before, rtol=0, atol=1e-12)
    assert str(plan) == "widen the kernel of 0 from 3x5 to 7x9"


def test_kernel_that_cannot_be_widened_is_refused() -> None:
    with pytest.raises(TypeError, match=r"the kernel of a Conv1d, .* but 0 is Linear"):
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
        (ResampleKernel(layers=("0",), size=9), conv.resampling(9)),
        (ExtendKernel(layers=("0",), size=9), conv.extension(9)),
    ):
        plan = planned(action, stage)
        assert torch.equal(plan.tensors["0.sampling"].value, twin)
        assert str(plan) == f"{action.name} of 0 from 5 to 9 taps".replace(" kernel", " the kernel")
    assert ResampleKernel(layers=("0",), size=5).plan(stage, step=0, keyed=KEYED) is None
    with pytest.raises(ValueError, match="must be odd"):
        ExtendKernel(layers=("0",), size=8).plan(stage, step=0, keyed=KEYED)
    with pytest.raises(ValueError, match="must be that of a ContinuousConv"):
        ExtendKernel(layers=("0",), size=9).plan(mlp(3, 2), step=0, keyed=KEYED)
    with pytest.raises(ValueError, match="2 taps or more"):
        ResampleKernel(layers=("0",), size=1)
