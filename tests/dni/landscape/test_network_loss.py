"""Is the loss at a point that of a network which has these tensors, and is the network left alone?"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dni.landscape.network_loss import NetworkLoss
from dni.landscape.still_copy import Mode
from tests.dni.landscape.networks import batches, loss_of, stages, unchanged


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_loss_and_gradient_are_those_of_a_network_with_these_tensors(mode: Mode) -> None:
    net, given = nn.Sequential(*stages()), batches(5, 3)
    net[0][3].p = 0.0
    twin = copy.deepcopy(net)
    with unchanged(net):
        loss = NetworkLoss(net, given, nn.CrossEntropyLoss(), mode=mode)
        point = {name: value + 0.1 for name, value in loss.start.items()} | {"0.1.running_mean": torch.ones(6).double()}
        found, gradient = loss(point), loss.gradient(point)
    twin.load_state_dict(twin.state_dict() | point)
    twin.train(mode == "train")
    expected = loss_of(twin, given)
    expected.backward()
    assert found == pytest.approx(expected.item(), abs=1e-12)
    assert gradient.keys() == dict(net.named_parameters()).keys()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(gradient[name], parameter.grad, rtol=1e-10, atol=1e-12)


def test_dropout_and_batch_norm_in_training_give_one_function() -> None:
    net, given = nn.Sequential(*stages()), batches(8)
    with unchanged(net):
        loss = NetworkLoss(net, given, nn.CrossEntropyLoss(), mode="train", seed=3)
        values = [loss(loss.start) for _ in range(3)]
        assert values[0] == values[1] == values[2] != NetworkLoss(net, given, nn.CrossEntropyLoss())(loss.start)
        assert values[0] != NetworkLoss(net, given, nn.CrossEntropyLoss(), mode="train", seed=4)(loss.start)


def test_what_the_network_does_not_have_is_refused_by_name() -> None:
    net = nn.Linear(4, 3).double()
    loss = NetworkLoss(net, batches(4), nn.CrossEntropyLoss(reduction="sum"))
    with pytest.raises(ValueError, match=r"got w \(1,\), where it has only weight, bias"):
        loss({"w": torch.ones(1)})
    with pytest.raises(ValueError, match=r"got bias \(2,\), where it has \(3,\)"):
        loss.gradient({"bias": torch.ones(2)})
    with pytest.raises(ValueError, match="at least one, got 0 batches"):
        NetworkLoss(net, [], nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="mode must be one of eval, train, got 'test'"):
        NetworkLoss(net, batches(4), nn.CrossEntropyLoss(), mode="test")  # type: ignore[arg-type]
