"""Is a whole part planned where it is to be attached, and refused where it cannot be?"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dni import Attach, Component, Edit, Insertion, LinearRamp, Measure, attach_, edits_from_json, ramp_from_json
from tests.dni.events.stage import KEYED, FakeStage, mlp, planned
from tests.dni.structure.networks import trained

SHAPES = {"0.weight": (4, 3), "0.bias": (4,), "1.weight": (4,), "3.weight": (4, 2, 3, 3)}


@pytest.mark.parametrize(
    ("edit", "place", "summary"),
    [
        (
            Component(layer="3", units=3, kernel=(1, 5)),
            "3",
            "attach a component of 3 relu units, kernel 1x5, beside 3 (alpha 0)",
        ),
        (Insertion(behind="2", units=4, kernel=(3, 3)), "2", "insert a layer of 4 units, kernel 3x3, behind 2"),
    ],
)
def test_part_is_planned_in_the_stage_that_has_its_place_and_keeps_the_function(
    edit: Any, place: str, summary: str
) -> None:
    network, x = trained("conv2d")
    action = Attach(edit=edit)
    assert (action.layers, action.name, action.asks) == ((place,), "attach", Measure.NOTHING)
    plan = planned(action, FakeStage(network))
    assert plan.edit == edit and plan.ramp is None and str(plan) == summary
    before = network(x)
    attach_(network, plan.edit, KEYED)
    torch.testing.assert_close(network(x), before, rtol=0, atol=1e-12)
    assert Attach(edit=Component(layer="9", units=1)).plan(mlp(3, 2), step=0, keyed=KEYED) is None


def test_record_of_a_part_is_all_that_is_needed_to_attach_it_again() -> None:
    edit, ramp = Component(layer="0", units=2, activation="gelu", alpha=1.0), LinearRamp(num_steps=9)
    plan = planned(Attach(edit=edit, ramp=ramp), mlp(3, 4, 2))
    own = plan.to_record()
    assert edits_from_json([own["edit"]]) == (edit,) and ramp_from_json(own["ramp"]) == ramp and own["step"] == 7
    assert str(plan) == "attach a component of 2 gelu units beside 0 (alpha 1, behind a gate)"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Component(layer="x", units=1), "there is no layer 'x' with parameters; there are 0, 1, 3"),
        (Component(layer="1", units=1), "layer '1' must have a parameter of 2 axes"),
        (Component(layer="0", units=1, kernel=(3,)), r"0 for 0 with a weight of \(4, 3\), got \(3,\)"),
        (Component(layer="3", units=1, kernel=(3,)), r"2 for 3 with a weight of \(4, 2, 3, 3\), got \(3,\)"),
        (Insertion(behind="0", units=4), r"which has no parameters, but 0 has 0\.weight, 0\.bias\. Name the act"),
    ],
)
def test_part_that_a_network_cannot_have_is_refused(edit: Edit, message: str) -> None:
    for fits in (Component(layer="3", units=1, kernel=(3, 1)), Insertion(behind="2", units=4)):
        Attach(edit=fits).check(SHAPES)
    with pytest.raises(ValueError, match=message):
        Attach(edit=edit).check(SHAPES)


def test_ramps_without_anything_to_open_to_are_refused() -> None:
    with pytest.raises(ValueError, match="Give it alpha=1 with a ramp"):
        Attach(edit=Component(layer="0", units=1), ramp=LinearRamp(num_steps=2))
    with pytest.raises(ValueError, match="nothing to phase in; got LinearRamp"):
        Attach(edit=Insertion(behind="1", units=1), ramp=LinearRamp(num_steps=2))
    with pytest.raises(TypeError, match="a Component or an Insertion, got 'part'"):
        Attach(edit="part")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a tuple of different names"):
        Attach(edit=Component(layer="", units=1))
