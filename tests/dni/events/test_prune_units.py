"""Do the units go that a loop over them would take?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dni import Count, Measure, PruneDormant, PruneUnits, Share
from tests.dni.events.stage import KEYED, FakeStage, layer_norm, mlp, planned


def _kept(scores: dict[str, list[float]], count: int) -> dict[str, list[int]]:
    """One unit at a time, the lowest of those whose layer has another one."""
    left = {layer: list(range(len(own))) for layer, own in scores.items()}
    for _ in range(count):
        free = [(scores[layer][unit], layer, unit) for layer, own in left.items() if len(own) > 1 for unit in own]
        _, layer, unit = min(free)
        left[layer].remove(unit)
    return left


def _norms(layer: nn.Linear) -> list[float]:
    return [sum(w**2 for w in row) ** 0.5 for row in layer.weight.tolist()]


def test_units_with_the_lowest_norms_go() -> None:
    stage = mlp(5, 8, 6, 3)
    plan = planned(PruneUnits(layers=("0", "2"), amount=Share(0.5)), stage)
    kept = {change.layer: list(change.origin.sources) for change in plan.changes}
    assert kept == {
        layer: _kept({layer: _norms(stage.module.get_submodule(layer))}, count)[layer]  # type: ignore[arg-type]
        for layer, count in (("0", 4), ("2", 3))
    }
    assert str(plan) == "prune 4 of 8 units of 0, 3 of 6 units of 2 (magnitude)"


def test_channels_are_ranked_by_all_that_makes_them() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))
    with torch.no_grad():
        for channel, size in enumerate((3.0, 1.0, 4.0, 2.0)):
            network[0].weight[channel] = size
    stage = FakeStage(network, readers={"0": ["3"]}, norms={"0": ["1"]})
    [change] = planned(PruneUnits(layers=("0",), amount=Count(2)), stage).changes
    assert change.origin.sources == (0, 2) and change.origin.num_old == 4


@pytest.mark.parametrize("by", ["activity", "taylor"])
def test_layers_of_a_stage_are_ranked_together_by_shares_of_their_means(by: str) -> None:
    stage = mlp(5, 4, 3, 2)
    measures = {"0": torch.tensor([40.0, 4.0, 80.0, 36.0]), "2": torch.tensor([0.1, 0.3, 0.2])}
    setattr(stage, by, measures)
    action = PruneUnits(layers=("0", "2"), amount=Count(3), by=by, scope="stage")  # type: ignore[arg-type]
    assert action.asks == Measure[by.upper()]
    plan = planned(action, stage)
    shares = {layer: (own / own.mean()).tolist() for layer, own in measures.items()}
    assert {change.layer: list(change.origin.sources) for change in plan.changes} == _kept(shares, 3)


def test_draws_are_by_layer_and_differ() -> None:
    stage = mlp(5, 30, 30, 2)
    action = PruneUnits(layers=("0", "2"), amount=Count(15), by="random")
    first, second = planned(action, stage).changes
    assert first.origin != second.origin
    [alone] = planned(PruneUnits(layers=("2",), amount=Count(15), by="random"), stage).changes
    assert alone.origin == second.origin


def test_dormant_units_go_however_many_there_are_but_not_the_last() -> None:
    stage = mlp(5, 4, 3, 3, 2)
    stage.activity = {"0": torch.tensor([1.0, 0.01, 1.0, 0.0]), "2": torch.zeros(3), "4": torch.ones(3)}
    plan = planned(PruneDormant(layers=("0", "2", "4")), stage)
    assert {change.layer: change.origin.sources for change in plan.changes} == {"0": (0, 2), "2": (2,)}
    assert str(plan) == "prune 2 of 4 units of 0, 2 of 3 units of 2 (dormant)"
    assert PruneDormant(layers=("4",)).plan(stage, step=0, keyed=KEYED) is None
    normed = layer_norm()
    normed.activity = {"0": torch.ones(4)}
    with pytest.raises(ValueError, match="take their statistics over units"):
        PruneDormant(layers=("0",)).plan(normed, step=0, keyed=KEYED)
    assert planned(PruneUnits(layers=("0",), amount=Count(1)), normed).changes


def test_layer_is_not_pruned_to_nothing() -> None:
    stage = mlp(5, 4, 2)
    [change] = planned(PruneUnits(layers=("0",), amount=Count(3)), stage).changes
    assert change.origin.num_new == 1
    action = PruneUnits(layers=("0",), amount=Count(3), floor=2)
    with pytest.raises(ValueError, match=r"3 of 4 cannot go from 0: at most 2 can"):
        action.plan(stage, step=0, keyed=KEYED)
    for make in (
        lambda: PruneUnits(layers=("0",), amount=Count(1), floor=0),
        lambda: PruneDormant(layers=("0",), floor=0),
    ):
        with pytest.raises(ValueError, match="a layer pruned to nothing"):
            make()


def test_what_was_not_measured_is_refused() -> None:
    stage = mlp(5, 4, 2)
    action = PruneUnits(layers=("0",), amount=Count(1), by="taylor")
    with pytest.raises(ValueError, match=r"units of 0 must have been measured, \(4,\), .* got measures of nothing"):
        action.plan(stage, step=0, keyed=KEYED)
    stage.taylor = {"0": torch.ones(5)}
    with pytest.raises(ValueError, match=r"got \(5,\). Measure after the last change"):
        action.plan(stage, step=0, keyed=KEYED)
    with pytest.raises(ValueError, match="by='size'"):
        PruneUnits(layers=("0",), amount=Count(1), by="size")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threshold of dormancy"):
        PruneDormant(layers=("0",), threshold=1.0)
