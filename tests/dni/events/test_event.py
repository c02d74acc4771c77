"""Does an event name itself where a run cannot have it?"""

from __future__ import annotations

import pytest

from dni import At, Count, Event, OnPlateau, PruneUnits, PruneWeights, Shock, Widen
from dni import Electroshock as Size
from dni.cadences.blocks import Shapes

SHAPES: Shapes = {"0.weight": (4, 3), "0.bias": (4,), "1.weight": (4,), "2.weight": (2, 4)}


def test_event_has_the_name_of_its_action_or_its_own() -> None:
    action = Widen(layers=("0",), amount=Count(1))
    assert Event(At(1), action).label == "widen" and Event(At(1), action, "more").label == "more"
    assert Event(OnPlateau(patience=1), action).label == "widen"
    assert Event(At(1), action) == Event(At(1), Widen(layers=("0",), amount=Count(1)))


def test_event_that_a_run_cannot_have_is_refused_by_name() -> None:
    def check(event: Event) -> None:
        event.check(SHAPES, num_steps=10, steps_per_epoch=None)

    check(Event(At(8), PruneUnits(layers=("0",), amount=Count(1))))
    check(Event(At(8), PruneWeights(amount=Count(1))))
    with pytest.raises(ValueError, match=r"at step 9, the last one, it would be for nothing"):
        check(Event(At(9), PruneWeights(amount=Count(1))))
    with pytest.raises(ValueError, match="event 'late': the step of an event must lie within the run"):
        check(Event(At(10), Widen(layers=("0",), amount=Count(1)), "late"))
    with pytest.raises(ValueError, match=r"event 'widen': there is no layer 'x' .* there are 0, 1, 2\. Correct"):
        check(Event(At(1), Widen(layers=("0", "x"), amount=Count(1))))
    with pytest.raises(ValueError, match=r"event 'shock': layer '1' must have a parameter of 2 axes .*1.weight \(4,\)"):
        check(Event(At(1), Shock(shock=Size(size=0.1), layers=("1",))))


def test_what_is_no_schedule_or_no_action_is_refused() -> None:
    with pytest.raises(TypeError, match="due by a schedule"):
        Event(5, Widen(layers=("0",), amount=Count(1)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="an event does an action"):
        Event(At(5), Size(size=0.1))  # type: ignore[arg-type]
