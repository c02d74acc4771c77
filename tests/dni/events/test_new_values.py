"""Do layers take over the values that their rules say, and what becomes of the optimiser's state?"""

from __future__ import annotations

import copy

import torch
from torch import nn

from dni import Electroshock, ResetLayers, Shock, ShrinkAndPerturb, ShrinkPerturb
from tests.dni.events.stage import KEYED, FakeStage, mlp, planned


def _before(stage: FakeStage) -> dict[str, torch.Tensor]:
    return copy.deepcopy(stage.module.state_dict())


def test_shock_is_that_of_the_weights_and_spares_what_is_masked() -> None:
    stage = mlp(5, 8, 3)
    stage.kept = {"2.weight": torch.rand(3, 8) < 0.5}
    before = _before(stage)
    plan = planned(Shock(shock=Electroshock(size=0.3)), stage)
    twin = {name: before[name].clone() for name in ("0.weight", "2.weight")}
    Electroshock(size=0.3).apply_(twin, KEYED, optimizer=None, memory="keep")
    twin["2.weight"] *= stage.kept["2.weight"]
    assert plan.tensors.keys() == twin.keys() and all(own.memory == "keep" for own in plan.tensors.values())
    for name, value in twin.items():
        torch.testing.assert_close(plan.tensors[name].value, value, rtol=0, atol=0)
        assert torch.equal(stage.module.state_dict()[name], before[name])
    assert str(plan) == "shock of size 0.3 to the weights (64 numbers in 2 tensors)"
    assert Shock(shock=Electroshock(size=0.3), layers=("9",)).plan(stage, step=0, keyed=KEYED) is None


def test_layers_begin_anew_with_their_statistics_and_their_optimiser_state() -> None:
    network = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2))
    network(torch.randn(6, 3))
    stage = FakeStage(network)
    plan = planned(ResetLayers(layers=("0", "9")), stage)
    fresh = stage.fresh("0", KEYED)
    assert plan.tensors.keys() == fresh.keys() >= {"0.0.weight", "0.0.bias", "0.1.running_mean"}
    for name, change in plan.tensors.items():
        assert torch.equal(change.value, fresh[name]) and change.memory == "zero moments and step"
    assert not torch.equal(fresh["0.1.running_mean"], network.state_dict()["0.1.running_mean"])


def test_shrink_and_perturb_is_its_equation_on_parameters_alone() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    stage = FakeStage(network)
    rule = ShrinkAndPerturb(shrink=0.4, perturb=0.1)
    plan = planned(ShrinkPerturb(rule=rule), stage)
    assert plan.tensors.keys() == stage.parameters.keys()
    for name, change in plan.tensors.items():
        fresh = stage.fresh(name.rpartition(".")[0], KEYED)[name]
        expected = 0.4 * stage.parameters[name].detach() + 0.1 * fresh
        torch.testing.assert_close(change.value, expected, rtol=1e-14, atol=1e-14)
    assert planned(ShrinkPerturb(rule=rule, layers=("2",), memory="keep"), stage).tensors["2.bias"].memory == "keep"
