"""Do the exact sources hand on the true gradient, bit for bit?"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import LossGradient, Need, Signal, TrueGradient


def test_true_gradient_returns_what_arrived_and_never_learns(generator: torch.Generator) -> None:
    source, gradient = TrueGradient(), torch.randn(4, 3)
    source.build(gradient, generator=generator)
    assert source.estimate(torch.randn(4, 3), Signal(step=0, gradient=gradient)) is gradient
    assert source.estimate(torch.randn(4, 3), Signal(step=0)) is None
    assert source.learns_from is Need.NONE and source.learn(gradient, Signal(step=0)) == 0.0


@pytest.mark.parametrize("num_samples", [1, 7, 96])
def test_loss_gradient_is_bit_equal_to_backprop_of_the_summed_loss(num_samples: int) -> None:
    h, target = torch.randn(num_samples, 5, requires_grad=True), torch.randint(0, 5, (num_samples,))
    F.cross_entropy(h, target, reduction="sum").backward()
    found = LossGradient(nn.CrossEntropyLoss()).estimate(h, Signal(step=0, target=target))
    torch.testing.assert_close(found, h.grad, rtol=0, atol=0)


def test_loss_gradient_keeps_the_loss_per_sample_of_its_latest_estimate() -> None:
    source, h, target = LossGradient(nn.CrossEntropyLoss()), torch.randn(8, 5), torch.randint(0, 5, (8,))
    assert source.latest is None
    source.estimate(h, Signal(step=0, target=target))
    assert source.latest == pytest.approx(F.cross_entropy(h, target).item())


def _first_member_loss(h: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
    return F.cross_entropy(h[0], target)


def test_loss_gradient_is_zero_for_members_that_the_loss_ignores() -> None:
    """In 0.1, a floating-point member that the loss did not read raised from autograd."""
    h, target = (torch.randn(6, 5), torch.randn(6, 2), torch.arange(6)), torch.randint(0, 5, (6,))
    found = LossGradient(_first_member_loss).estimate(h, Signal(step=0, target=target))
    assert isinstance(found, tuple) and found[2] is None
    assert found[0] is not None and found[0].abs().sum() > 0
    assert torch.equal(found[1], torch.zeros(6, 2))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda source: pickle.loads(pickle.dumps(source))])
def test_a_used_loss_gradient_can_be_copied_and_pickled(clone) -> None:
    """In 0.1, the reduction it had found was a lambda over the original's loss."""
    source, h = LossGradient(nn.CrossEntropyLoss(weight=torch.ones(5))), torch.randn(6, 5)
    signal = Signal(step=0, target=torch.randint(0, 5, (6,)))
    before = source.estimate(h, signal)
    other = clone(source)
    source.loss.weight.fill_(9.0)
    torch.testing.assert_close(other.estimate(h, signal), before, rtol=0, atol=0)
