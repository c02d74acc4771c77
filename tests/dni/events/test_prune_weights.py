"""Do the weights go that a loop over them would take, of those that are still there?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dni import Count, LiftMasks, Measure, PruneWeights, Share
from tests.dni.events.stage import KEYED, FakeStage, mlp, planned


def _lowest(scores: dict[str, Tensor], kept: dict[str, Tensor], count: int) -> set[tuple[str, int]]:
    ranked = sorted(
        (score, name, place)
        for name, own in scores.items()
        for place, score in enumerate(own.flatten().tolist())
        if name not in kept or kept[name].flatten()[place]
    )
    return {(name, place) for _, name, place in ranked[:count]}


def _dropped(plan: object) -> set[tuple[str, int]]:
    tensors = plan.rewiring.tensors  # type: ignore[attr-defined]
    return {(name, place) for name, change in tensors.items() for place in change.dropped.tolist()}


def _magnitudes(stage: FakeStage) -> dict[str, Tensor]:
    return {name: value.detach().abs() for name, value in stage.parameters.items() if value.dim() == 2}


def test_smallest_weights_of_what_is_left_go_from_each_tensor() -> None:
    stage, action = mlp(5, 8, 3), PruneWeights(amount=Share(0.5))
    scores = _magnitudes(stage)
    for num_left in ({"0.weight": 40, "2.weight": 24}, {"0.weight": 20, "2.weight": 12}):
        plan = planned(action, stage)
        expected = [_lowest({name: scores[name]}, stage.kept, count // 2) for name, count in num_left.items()]
        assert _dropped(plan) == expected[0] | expected[1]
        stage.kept = plan.after(stage.kept, stage.parameters)
        assert {name: int(mask.sum()) * 2 for name, mask in stage.kept.items()} == num_left
    assert str(plan) == "prune 16 of 32 weights in 2 tensors (magnitude)"


def test_tensors_of_a_stage_are_ranked_together() -> None:
    stage = mlp(5, 8, 3)
    plan = planned(PruneWeights(amount=Count(20), scope="stage"), stage)
    assert _dropped(plan) == _lowest(_magnitudes(stage), {}, 20)


def test_movement_is_that_of_the_update_and_draws_are_by_tensor() -> None:
    stage = mlp(5, 8, 3)
    stage.gradients = {name: torch.randn_like(value) for name, value in stage.parameters.items()}
    action = PruneWeights(amount=Count(9), layers=("2",), by="movement")
    assert action.asks == Measure.GRADIENT
    moved = {"2.weight": -stage.parameters["2.weight"].detach() * stage.gradients["2.weight"]}
    assert _dropped(planned(action, stage)) == _lowest(moved, {}, 9)
    assert stage.module.get_parameter("2.weight").grad is None
    everywhere, one = (PruneWeights(amount=Count(4), layers=own, by="random") for own in (None, ("2",)))
    assert _dropped(planned(one, stage)) < _dropped(planned(everywhere, stage))
    stage.gradients = {}
    with pytest.raises(ValueError, match=r"2.weight must have a gradient"):
        action.plan(stage, step=0, keyed=KEYED)


def test_lifted_masks_are_held_no_longer() -> None:
    stage = mlp(5, 8, 3)
    stage.kept = planned(PruneWeights(amount=Share(0.5)), stage).after({}, stage.parameters)
    plan = planned(LiftMasks(layers=("2",)), stage)
    after = plan.after(stage.kept, stage.parameters)
    assert plan.lifted == ("2.weight",) and after.keys() == {"0.weight"}
    assert torch.equal(after["0.weight"], stage.kept["0.weight"])
    assert str(plan) == "lift the masks of 1 tensors: 12 weights learn again"
    stage.kept = {}
    assert LiftMasks().plan(stage, step=0, keyed=KEYED) is None


def test_tensor_is_not_pruned_to_nothing() -> None:
    with pytest.raises(ValueError, match=r"24 of 24 cannot go from 2.weight"):
        PruneWeights(amount=Share(1.0), layers=("2",)).plan(mlp(5, 8, 3), step=0, keyed=KEYED)
    with pytest.raises(ValueError, match="got a floor of 0"):
        PruneWeights(amount=Count(1), floor=0)
    with pytest.raises(ValueError, match="scope='network'"):
        PruneWeights(amount=Count(1), scope="network")  # type: ignore[arg-type]
