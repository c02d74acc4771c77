"""Do plans say what they hold, so that two of them can be compared?"""

from __future__ import annotations

import pytest
import torch

from dni import MaskPlan, Origin, Rewiring, TensorPlan, TensorRewiring, UnitPlan
from dni.structure.change import TensorChange, UnitChange
from tests.dni.events.stage import record


def _values(value: torch.Tensor) -> object:
    return record(TensorPlan(summary="", step=0, tensors={"a": TensorChange(value=value)}))


def test_record_of_values_tells_bits_shapes_and_types_apart() -> None:
    values = [
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([1.0, 2.0]),
        torch.tensor([1.0, 2.0000002]),
        torch.tensor([1.0, 2.0]).bfloat16(),
        torch.tensor([1, 2]),
        torch.tensor(1.0),
    ]
    records = [_values(value) for value in values]
    assert all(records[i] != records[j] for i in range(6) for j in range(i))
    assert _values(torch.tensor([[1.0, 0.0], [2.0, 0.0]]).T[:1]) == _values(values[0])


def test_record_of_units_has_their_origins() -> None:
    changes = (UnitChange(layer="0", origin=Origin.append(2, num_old=3)),)
    plan = UnitPlan(summary="grow", step=4, changes=changes, given={"0": {"0.bias": torch.zeros(2)}})
    own = record(plan)
    assert Origin.from_json(own["changes"][0]["origin"]) == changes[0].origin
    assert own["given"]["0"]["0.bias"]["shape"] == [2] and (str(plan), own["step"]) == ("grow", 4)


def test_masks_begin_all_kept_and_are_refused_if_they_are_others() -> None:
    places = torch.tensor([1, 2])
    plan = MaskPlan(
        summary="prune",
        rewiring=Rewiring(rule="r", step=0, tensors={"a": TensorRewiring(dropped=places, grown=places[:0])}),
    )
    parameters = {"a": torch.randn(2, 2, requires_grad=True)}
    masks = plan.after({}, parameters)
    assert masks["a"].tolist() == [[True, False], [False, True]] and record(plan)["lifted"] == []
    with pytest.raises(ValueError, match=r"have been there already|have been dropped already"):
        plan.after(masks, parameters)
