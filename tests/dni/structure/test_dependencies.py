"""Do parts that were attached to a network, and its gates, follow the units around them, and those within them?"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dni import Component, Edit, Insertion, Origin, apply_edits_, gate_, units_of
from tests.dni.structure.networks import KEYED, changed, trained

BESIDE: dict[str, tuple[str, tuple[Edit, ...]]] = {
    "convolutions": ("conv2d", (Component(layer="0", units=2, alpha=1.0), Component(layer="3", units=2, alpha=1.0))),
    "flattened": ("flattened", (Component(layer="0", units=2, alpha=1.0), Component(layer="3", units=2, alpha=1.0))),
    "linear": ("mlp", (Component(layer="0", units=3, alpha=0.5), Component(layer="3", units=2, alpha=1.0))),
}


def _grown(kind: str, *edits: Edit, gated: str = "3", entry: int = 1) -> tuple[nn.Sequential, Tensor]:
    """A network in evaluation, with parts that say something and a gate."""
    network, x = trained(kind)
    apply_edits_(network, edits, KEYED)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    layer = network.get_submodule(gated)
    gate_(layer, [entry], 0.3)
    return network.eval(), x


def _silenced(network: nn.Sequential, layer: str, unit: int, x: Tensor) -> nn.Sequential:
    """A copy that does not listen to a unit."""
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for name, own in units_of(network, layer, x).hidden.sides("consumer"):
            twin.get_parameter(name).narrow(1, unit * own.at.block, own.at.block).zero_()
    return twin


def _check(network: nn.Sequential, layer: str, x: Tensor) -> None:
    """Copies, new units of alpha 0 and units removed leave the function that they must."""
    hidden, before = units_of(network, layer, x).hidden, network(x)
    num_units = hidden.num_units
    for origin in (Origin.duplicate([1, 1], num_old=num_units), Origin.append(2, num_old=num_units)):
        torch.testing.assert_close(changed(network, hidden, origin)(x), before, rtol=0, atol=1e-12)
    small = changed(network, hidden, Origin.keep(range(1, num_units), num_old=num_units))
    silent = _silenced(network, layer, 0, x)(x)
    torch.testing.assert_close(small(x), silent, rtol=0, atol=1e-12)
    assert not torch.allclose(silent, before)


@pytest.mark.parametrize("kind", BESIDE)
def test_components_follow_the_units_of_the_layers_that_they_stand_beside(kind: str) -> None:
    name, edits = BESIDE[kind]
    network, x = _grown(name, *edits)
    sides = {name: own.side for name, (own,) in units_of(network, "0", x).hidden.tensors.items() if name[0] != "1"}
    made = dict.fromkeys(("0.weight", "0.bias", "0.component.2.weight", "3.unit_gate"), "producer")
    assert sides == made | dict.fromkeys(("3.weight", "3.component.0.weight"), "consumer")
    _check(network, "0", x)


@pytest.mark.parametrize("kind", ["conv2d", "mlp"])
def test_units_of_a_component_and_its_gate_follow(kind: str) -> None:
    network, x = _grown(kind, Component(layer="3", units=3, alpha=1.0), gated="3.component.2")
    hidden = units_of(network, "3.component.0", x).hidden
    inside = {"0.weight", "0.bias", "2.weight", "2.unit_gate"}
    assert hidden.tensors.keys() == {f"3.component.{own}" for own in inside} and hidden.num_units == 3
    _check(network, "3.component.0", x)


@pytest.mark.parametrize(("kind", "kernel"), [("conv2d", (3, 3)), ("normed_mlp", ())])
def test_layers_that_were_inserted_are_read_and_read_in_between(kind: str, kernel: tuple[int, ...]) -> None:
    network, x = _grown(
        kind,
        Insertion(behind="2", units=4, kernel=kernel),
        Component(layer="2.inserted.0", units=2, alpha=1.0),
        gated="2.inserted.0",
    )
    read = units_of(network, "0", x).hidden
    readers = {"2.inserted.0.weight", "2.inserted.0.component.0.weight"}
    assert {name for name, _ in read.sides("consumer")} == readers and "3.weight" not in read.tensors
    _check(network, "0", x)
    assert {name for name, _ in units_of(network, "2.inserted.0", x).hidden.sides("consumer")} == {"3.weight"}
    _check(network, "2.inserted.0", x)
