"""Does a network whose parts are modules in its chain compute the same?"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dni import Component, Insertion, apply_edits_, gate_, spell_out_
from tests.dni.structure.networks import trained


def _keyed(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(len(name))


def test_network_spelled_out_computes_the_same_with_the_tensors_where_they_were() -> None:
    network, x = trained("conv2d")
    edits = (
        Component(layer="0", units=2, alpha=1.0),
        Insertion(behind="2", units=4, kernel=(3, 3)),
        Component(layer="2.inserted.0", units=1, alpha=1.0),
        Component(layer="3", units=2, alpha=1.0),
    )
    apply_edits_(network, edits, _keyed)
    gate_(network[3], [1, 2], 0.3)
    network.eval()
    spelled = copy.deepcopy(network)
    names = spell_out_(spelled)
    assert names == {
        "0": "0.itself",
        "2": "2.itself",
        "2.inserted.0": "2.inserted.0.itself",
        "3": "3.itself",
    }
    assert torch.equal(spelled(x), network(x))
    for name, parameter in network.named_parameters():
        layer, _, own = name.rpartition(".")
        assert torch.equal(spelled.get_parameter(f"{names.get(layer, layer)}.{own}"), parameter)
    assert not any(part._forward_hooks for part in spelled.modules())
    found: dict[str, torch.Tensor] = {}
    spelled.get_submodule("0.itself").register_forward_hook(lambda layer, args, y: found.update({"0": y}))
    spelled(x)
    weight, bias = network[0].weight, network[0].bias
    assert torch.equal(found["0"], nn.functional.conv2d(x, weight, bias, stride=2)), "a layer is only itself"


def test_network_without_parts_stays_and_one_that_is_a_layer_is_refused() -> None:
    network, _ = trained("mlp")
    before = list(network.named_modules())
    assert spell_out_(network) == {} and list(network.named_modules()) == before
    alone = nn.Sequential(nn.Linear(2, 2))
    apply_edits_(alone, [Component(layer="0", units=1)], _keyed)
    with pytest.raises(ValueError, match="that is one layer cannot be spelled out"):
        spell_out_(alone[0])
