"""Does an action find what it means, and refuse what it cannot mean?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dni import Count, Grow, LiftMasks, PruneUnits, PruneWeights, Recycle, ReDo, Share
from dni.events.targets import check_apart, held, kept_values, weights
from tests.dni.events.stage import FakeStage, mlp


def test_stage_is_asked_only_for_the_layers_that_it_has() -> None:
    stage = mlp(3, 4, 2)
    assert held(("9", "2", "0"), stage) == ["2", "0"]
    assert list(weights(("2", "9"), stage)) == ["2.weight"] and list(weights(None, stage)) == ["0.weight", "2.weight"]
    for action in (PruneUnits(layers=("9",), amount=Count(1)), PruneWeights(amount=Count(1), layers=("9",))):
        assert action.plan(stage, step=0, keyed=lambda name: torch.Generator()) is None


def test_new_values_are_zero_where_masks_are_held() -> None:
    stage = FakeStage(mlp(2, 2).module, kept={"a": torch.tensor([True, False])})
    values = kept_values(stage, {"a": torch.tensor([1.0, 2.0]), "b": torch.ones(1)})
    assert values["a"].tolist() == [1.0, 0.0] and values["b"].tolist() == [1.0]


@pytest.mark.parametrize("layers", ["0", (), ("0", "0"), ("",)])
@pytest.mark.parametrize(
    "action",
    [
        lambda layers: Grow(layers=layers, amount=Count(1)),
        lambda layers: LiftMasks(layers=layers),
        lambda layers: Recycle(layers=layers, rule=ReDo()),
    ],
)
def test_layers_must_be_different_names(action: Callable[..., object], layers: object) -> None:
    with pytest.raises(ValueError, match="a tuple of different names"):
        action(layers)


def test_event_that_changes_nothing_is_refused() -> None:
    for amount in (Count(0), Share(0.0)):
        with pytest.raises(ValueError, match="an event must change something"):
            PruneWeights(amount=amount)


def test_layers_with_units_in_common_are_refused() -> None:
    stage = mlp(3, 4, 4, 2)
    check_apart({layer: stage.units(layer) for layer in ("0", "2")})
    with pytest.raises(ValueError, match=r"0 and other both change 0\.weight: their outputs are added"):
        check_apart({"0": stage.units("0"), "other": stage.units("0")})
