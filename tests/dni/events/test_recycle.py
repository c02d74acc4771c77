"""Do the units begin anew that two papers' rules name?"""

from __future__ import annotations

import pytest
import torch

from dni import NEW, ContinualBackprop, Recycle, ReDo, UnitUtility
from dni.structure.change import NewUnits
from tests.dni.events.stage import KEYED, layer_norm, mlp, planned


def test_dormant_units_begin_anew_in_their_places() -> None:
    stage = mlp(5, 4, 3, 2)
    stage.activity = {"0": torch.tensor([1.0, 0.01, 1.0, 0.0]), "2": torch.ones(3)}
    plan = planned(Recycle(layers=("0", "2"), rule=ReDo()), stage)
    [change] = plan.changes
    assert (change.layer, change.origin.sources, change.new) == ("0", (0, NEW, 2, NEW), NewUnits(alpha=0.0))
    assert {name: value.tolist() for name, value in plan.given["0"].items()} == {"0.bias": [0.0, 0.0]}
    assert str(plan) == "recycle 2 of 4 units of 0 (ReDo)" and plan.state == {}
    stage.activity["0"] = torch.ones(4)
    assert Recycle(layers=("0", "2"), rule=ReDo()).plan(stage, step=0, keyed=KEYED) is None


def test_least_used_units_begin_anew_as_a_loop_that_keeps_its_own_books_says() -> None:
    stage, rule = mlp(5, 6, 4, 2), ContinualBackprop(decay=0.5, maturity=2, replacement_rate=0.2)
    action, twin = Recycle(layers=("0", "2"), rule=rule), UnitUtility(rule)
    torch.manual_seed(1)
    seen = 0
    for _ in range(8):
        stage.activity = {"0": torch.rand(6).double(), "2": torch.rand(4).double()}
        for layer, reader in (("0", "2"), ("2", "4")):
            weight = stage.parameters[f"{reader}.weight"].detach()
            outgoing = torch.tensor([float(column.abs().sum()) for column in weight.T], dtype=torch.float64)
            twin.observe(layer, stage.activity[layer], outgoing)
        expected = twin.plan()
        twin.replaced_(expected)
        plan = planned(action, stage)
        stage.state = plan.state
        found = {change.layer: tuple(change.origin.fresh) for change in plan.changes}
        assert found == {layer: units for layer, units in expected.units.items() if units}
        seen += len(found)
    assert seen > 3


def test_what_is_known_of_a_layer_begins_anew_when_its_width_has_changed() -> None:
    rule = ContinualBackprop(maturity=0, replacement_rate=0.0)
    action, stage = Recycle(layers=("0", "2"), rule=rule), mlp(5, 6, 4, 2)
    stage.activity = {"0": torch.ones(6).double(), "2": torch.ones(4).double()}
    stage.state = planned(action, stage).state
    other = mlp(5, 3, 4, 2)
    other.activity, other.state = {**stage.activity, "0": torch.ones(3).double()}, stage.state
    plan = planned(action, other)
    assert plan.state["age"]["0"].tolist() == [1] * 3 and plan.state["age"]["2"].tolist() == [2] * 4
    assert str(plan) == "recycle no unit (ContinualBackprop)" and plan.changes == ()


def test_what_cannot_be_recycled_is_refused_and_what_is_elsewhere_left_alone() -> None:
    with pytest.raises(TypeError, match="by ReDo or ContinualBackprop"):
        Recycle(layers=("0",), rule="dormant")  # type: ignore[arg-type]
    elsewhere = Recycle(layers=("9",), rule=ContinualBackprop())
    assert elsewhere.plan(mlp(5, 4, 2), step=0, keyed=KEYED) is None
    with pytest.raises(ValueError, match="new ones change the old even with outgoing weights of 0"):
        Recycle(layers=("0",), rule=ReDo()).plan(layer_norm(), step=0, keyed=KEYED)
