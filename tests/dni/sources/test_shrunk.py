"""Is a shrunk gradient the share of the true one that was asked for?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dni import ShrunkGradient, Signal, TrueGradient


def test_gradient_is_multiplied_by_beta_and_beta_1_is_backprop_bit_for_bit() -> None:
    h, gradient = torch.randn(6, 4), torch.randn(6, 4)
    signal = Signal(step=0, gradient=gradient)
    torch.testing.assert_close(ShrunkGradient(0.25).estimate(h, signal), gradient / 4, rtol=0, atol=0)
    assert ShrunkGradient(1.0).estimate(h, signal) is TrueGradient().estimate(h, signal) is gradient


def test_members_without_a_gradient_stay_without() -> None:
    h = (torch.randn(6, 4), torch.arange(6))
    found = ShrunkGradient(0.5).estimate(h, Signal(step=0, gradient=(torch.ones(6, 4), None)))
    assert isinstance(found, tuple) and found[1] is None
    torch.testing.assert_close(found[0], torch.full((6, 4), 0.5))


def test_shrinking_compounds_with_depth() -> None:
    """Three linear layers by hand: the gradient at the output of layer i carries β^(3 - 1 - i)."""
    weights = [torch.randn(4, 4, dtype=torch.float64) for _ in range(3)]
    true = shrunk = torch.randn(6, 4, dtype=torch.float64)
    source = ShrunkGradient(0.5)
    for depth, weight in enumerate(reversed(weights), start=1):
        true = true @ weight
        found = source.estimate(true, Signal(step=0, gradient=shrunk @ weight))
        assert isinstance(found, Tensor)
        shrunk = found
        torch.testing.assert_close(shrunk, 0.5**depth * true)


@pytest.mark.parametrize("beta", [-0.5, 0.0, 1.5])
def test_beta_outside_0_to_1_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=rf"beta must lie in \(0, 1\], got {beta}"):
        ShrunkGradient(beta)
