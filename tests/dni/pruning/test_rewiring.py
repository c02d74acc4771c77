"""Can a plan be printed, written down, read back and applied, once?"""

from __future__ import annotations

import json

import pytest
import torch

from dni import Rewiring, TensorRewiring, kept_after


def _plan(dropped: list[int], grown: list[int], name: str = "0.weight") -> Rewiring:
    change = TensorRewiring(
        dropped=torch.tensor(dropped, dtype=torch.int64), grown=torch.tensor(grown, dtype=torch.int64)
    )
    return Rewiring(rule="SET()", step=7, tensors={name: change})


KEPT = {"0.weight": torch.tensor([[True, True], [False, False]]), "2.weight": torch.tensor([True])}


def test_plan_says_what_it_does_and_comes_back_from_json() -> None:
    plan = _plan([0], [2, 3])
    assert str(plan) == "SET() at step 7: 0.weight -1 +2"
    assert str(_plan([], [])) == "SET() at step 7: nothing changes"
    again = Rewiring.from_record(json.loads(json.dumps(plan.to_record())))
    assert again.to_record() == plan.to_record()
    assert torch.equal(kept_after(again, KEPT)["0.weight"], kept_after(plan, KEPT)["0.weight"])


def test_masks_after_a_plan_are_new_where_it_says_so() -> None:
    after = kept_after(_plan([0], [3]), KEPT)
    assert after["0.weight"].tolist() == [[False, True], [False, True]]
    assert after["2.weight"] is KEPT["2.weight"] and KEPT["0.weight"].tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (_plan([0], [3], name="1.weight"), "changes 1.weight, which has no mask; masks are of 0.weight, 2.weight"),
        (_plan([2], []), "drops places of 0.weight"),
        (_plan([], [0]), "grows places of 0.weight"),
        (_plan([], [4]), "outside of its 4 numbers"),
        (_plan([0, 1], []), "would leave nothing of 0.weight"),
    ],
)
def test_plan_for_other_masks_is_refused(plan: Rewiring, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kept_after(plan, KEPT)
