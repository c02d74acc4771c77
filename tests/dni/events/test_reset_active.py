"""Do the parameters that moved farthest begin again, those that a list of numbers sorted by hand says?"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dni import Amount, Count, Measure, ResetActive, Share
from tests.dni.events.stage import KEYED, FakeStage, mlp, planned


def _trained() -> FakeStage:
    """A network that has moved, with some weights masked; the first bias does not learn."""
    stage = mlp(5, 4, 3)
    stage.initial = {name: value.detach().clone() for name, value in stage.parameters.items() if name != "0.bias"}
    stage.kept = {"2.weight": torch.rand(3, 4) < 0.5}
    with torch.no_grad():
        for name, value in stage.parameters.items():
            value.add_(torch.randn_like(value))
            if name in stage.kept:
                value.mul_(stage.kept[name])
    return stage


def _farthest(stage: FakeStage, names: list[str], amount: Amount) -> set[tuple[str, int]]:
    """By sorting."""
    found = []
    for name in names:
        kept = stage.kept.get(name, torch.ones_like(stage.initial[name])).flatten().tolist()
        pairs = zip(stage.initial[name].flatten().tolist(), stage.parameters[name].flatten().tolist(), strict=True)
        found += [(-abs(a - b), name, i) for i, (a, b) in enumerate(pairs) if kept[i]]
    return {(name, i) for _, name, i in sorted(found)[: amount.of(len(found))]}


@pytest.mark.parametrize("to", ["initial", "fresh"])
@pytest.mark.parametrize("scope", ["stage", "tensor"])
@pytest.mark.parametrize("amount", [Share(0.3), Count(2), Share(1.0)])
def test_farthest_parameters_take_other_values_and_no_others_do(to: str, scope: str, amount: Amount) -> None:
    stage = _trained()
    action = ResetActive(amount=amount, to=to, scope=scope)  # type: ignore[arg-type]
    plan = planned(action, stage)
    groups = [list(stage.initial)] if scope == "stage" else [[name] for name in stage.initial]
    expected = set[tuple[str, int]]().union(*(_farthest(stage, names, amount) for names in groups))
    fresh = {**stage.fresh("0", KEYED), **stage.fresh("2", KEYED)}
    found = set()
    for name, change in plan.tensors.items():
        values: Tensor = (stage.initial if to == "initial" else fresh)[name]
        assert change.memory == "zero moments" and not change.axes
        for i, begins in enumerate(change.anew.flatten().tolist()):
            found |= {(name, i)} if begins else set()
            assert change.value.flatten()[i] == (values if begins else stage.parameters[name]).flatten()[i]
    assert found == expected and action.asks == Measure.INITIAL
    total = 20 + 3 + int(stage.kept["2.weight"].sum())
    assert str(plan).startswith(f"reset the {len(expected)} of {total} parameters that have moved farthest")
    assert str(plan).endswith(f"to {to} values")


def test_only_layers_that_are_named_and_here_are_meant() -> None:
    stage = _trained()
    assert planned(ResetActive(amount=Count(3), layers=("2", "9")), stage).tensors.keys() <= {"2.weight", "2.bias"}
    assert ResetActive(amount=Count(3), layers=("9",)).plan(stage, step=0, keyed=KEYED) is None
    assert ResetActive(amount=Share(0.01)).plan(stage, step=0, keyed=KEYED) is None


def test_what_makes_no_sense_is_refused() -> None:
    action = ResetActive(amount=Count(3))
    for other, message in (
        ({"to": "zero"}, "initial or fresh values"),
        ({"scope": "network"}, "ranked within a stage or a tensor"),
        ({"memory": "zero moments and step"}, "a tensor has one count"),
        ({"amount": Count(0)}, "must change something"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(action, **other)  # type: ignore[arg-type]
    stage = _trained()
    with pytest.raises(ValueError, match=r"4 parameters cannot be reset of 2\.bias: 3 learn there"):
        ResetActive(amount=Count(4), layers=("0", "2"), scope="tensor").plan(
            replace(stage, kept={}), step=0, keyed=KEYED
        )
    with torch.no_grad():
        stage.parameters["0.weight"][0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"found NaN or infinity in 0\.weight"):
        action.plan(stage, step=0, keyed=KEYED)
