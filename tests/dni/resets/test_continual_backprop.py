"""Does continual backprop replace the units that a hand computation would, when it would?"""

from __future__ import annotations

import pytest
import torch

from dni import ContinualBackprop, UnitUtility


def test_utilities_and_replacements_are_those_computed_by_hand() -> None:
    rule = ContinualBackprop(decay=0.9, maturity=3, replacement_rate=0.1)
    utility, drawn = UnitUtility(rule), torch.Generator().manual_seed(0)
    hand, age, due, replaced = [0.0] * 5, [0] * 5, 0.0, 0
    for _ in range(60):
        activity, outgoing = torch.rand(2, 5, generator=drawn, dtype=torch.float64)
        utility.observe("0", activity, outgoing)
        for unit in range(5):
            hand[unit] = 0.9 * hand[unit] + 0.1 * float(activity[unit]) * float(outgoing[unit])
            age[unit] += 1
        corrected = [u / (1 - 0.9**a) for u, a in zip(hand, age, strict=True)]
        assert utility.utilities()["0"].tolist() == pytest.approx(corrected, rel=1e-12)
        mature = [unit for unit in range(5) if age[unit] > 3]
        due += 0.1 * len(mature)
        lowest = sorted(mature, key=lambda unit: corrected[unit])[: int(due + 1e-9)]
        plan = utility.plan()
        assert plan.units == {"0": tuple(sorted(lowest))} == utility.plan().units, "a plan changes nothing"
        utility.replaced_(plan)
        due -= len(lowest)
        replaced += len(lowest)
        for unit in lowest:
            hand[unit], age[unit] = 0.0, 0
    assert replaced > 10


def test_a_tenth_of_a_unit_at_each_update_is_a_unit_after_ten() -> None:
    utility = UnitUtility(ContinualBackprop(maturity=0, replacement_rate=0.1))
    found = []
    for _ in range(20):
        utility.observe("0", torch.tensor([1.0]), torch.tensor([1.0]))
        found.append(len((plan := utility.plan()).units["0"]))
        utility.replaced_(plan)
    assert found == ([0] * 9 + [1]) * 2


def test_utility_goes_on_from_a_checkpoint() -> None:
    first, second = (UnitUtility(ContinualBackprop(maturity=1, replacement_rate=0.3)) for _ in range(2))
    for step in range(6):
        if step == 3:
            second.load_state_dict(first.state_dict())
        for utility in (first, second) if step >= 3 else (first,):
            utility.observe("0", torch.arange(4.0) + step, torch.ones(4))
    assert first.plan() == second.plan() and sum(map(len, first.plan().units.values())) > 0


def test_rates_and_shapes_that_cannot_be_are_refused() -> None:
    for name, value in (("decay", 1.0), ("maturity", -1), ("replacement_rate", 1.5)):
        with pytest.raises(ValueError, match=f"got {value}"):
            ContinualBackprop(**{name: value})  # type: ignore[arg-type]
    utility = UnitUtility(ContinualBackprop())
    utility.observe("0", torch.ones(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"of 0 must have one number .* \(3,\), got \(4,\) and \(4,\)"):
        utility.observe("0", torch.ones(4), torch.ones(4))
