"""Do the parts of a loss add up to it, and leave the network as it was?"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dni import loss_parts
from tests.dni.curvature.networks import mlp, parameters_of


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_parts_add_up_to_the_loss(reduction: str) -> None:
    module, x, target = mlp()
    loss = nn.CrossEntropyLoss(reduction=reduction)
    parts = loss_parts(module, loss, x, target, samples_at_once=4)
    assert len(parts) == 2
    total = sum(part(parameters_of(module)) for part in parts)
    torch.testing.assert_close(total, loss(module(x), target), rtol=1e-12, atol=0)
    (whole,) = loss_parts(module, loss, x, target)
    assert whole({name: own * 0 for name, own in module.named_parameters()}) != total


class _RoundsAlone(nn.Module):
    """Rounds a sample by itself in another way than several, as matrix products do."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 - 6e-6) if len(x) == 1 else x


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_mean_of_losses_that_are_all_but_zero_is_told_from_their_sum(reduction: str) -> None:
    """At first, a run that had nearly learned its samples by heart ended here: rounding was taken for weights."""
    module, x = _RoundsAlone(), 6 * torch.eye(5)
    loss = nn.CrossEntropyLoss(reduction=reduction)
    parts = loss_parts(module, loss, x, torch.arange(5), samples_at_once=2)
    total = sum(part({}) for part in parts)
    torch.testing.assert_close(total, loss(module(x), torch.arange(5)), rtol=1e-3, atol=1e-15)


def test_nothing_of_a_network_changes_when_its_loss_is_looked_at() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).eval()
    module[3].train()
    seen: list[Tensor] = []
    module[0].register_forward_hook(lambda layer, args, out: seen.append(out))
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    (part,) = loss_parts(
        module, nn.CrossEntropyLoss(), torch.randn(5, 3, generator=torch.Generator()), torch.arange(5) % 2
    )
    part(parameters_of(module)).detach()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(own, before[name]) for name, own in module.state_dict().items())
    assert not seen
    assert [layer.training for layer in module] == [False, False, False, True]
    assert all(own.grad is None for own in module.parameters())


@pytest.mark.parametrize(
    ("layer", "loss", "message"),
    [
        (nn.Dropout(), nn.CrossEntropyLoss(), "the same at every evaluation"),
        (nn.BatchNorm1d(4), nn.CrossEntropyLoss(), "1 is a BatchNorm1d in training mode"),
        (nn.Tanh(), nn.CrossEntropyLoss(reduction="none"), r"must be a scalar, got \(5,\)"),
        (nn.Tanh(), lambda y, target: y.sum() / 0, "must be finite"),
        (nn.Tanh(), lambda y, target: y.logsumexp((0, 1)), "mean or the sum over samples"),
    ],
)
def test_loss_without_derivatives_that_mean_something_is_refused(layer: nn.Module, loss: object, message: str) -> None:
    module = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 4))
    with pytest.raises(ValueError, match=message):
        loss_parts(module, loss, torch.randn(5, 3), torch.arange(5) % 4, samples_at_once=2)


def test_number_of_samples_at_once_is_at_least_one() -> None:
    module, x, target = mlp()
    with pytest.raises(ValueError, match="at least 1, got 0"):
        loss_parts(module, nn.CrossEntropyLoss(), x, target, samples_at_once=0)


def test_module_that_cannot_be_copied_is_refused() -> None:
    module, x, target = mlp()
    module.register_module("held", nn.Identity())
    module.held.graph = module[0](x)
    with pytest.raises(TypeError, match=r"copy\.deepcopy can copy, so that nothing"):
        loss_parts(module, nn.CrossEntropyLoss(), x, target)
