"""Are widths foreseen as the plans then make them, and is the impossible refused?"""

from __future__ import annotations

import pytest

from dni import (
    At,
    AtRandom,
    Count,
    EpochEnds,
    Event,
    EverySteps,
    Grow,
    OnPlateau,
    PruneDormant,
    PruneUnits,
    Share,
    Shock,
    Widen,
    foresee_events,
)
from dni import Electroshock as Size


def _foreseen(*events: Event, units: dict[str, int] | None = None) -> list[tuple[int, str, dict[str, object]]]:
    occurrences = foresee_events(
        events, units or {"0": 8, "2": 6}, num_steps=40, steps_per_epoch=10, draw=lambda index, step: step / 40
    )
    return [
        (own.step, own.event.label, {layer: (width.before, width.after) for layer, width in own.widths.items()})
        for own in occurrences
    ]


def test_widths_follow_one_another_by_step_and_order() -> None:
    assert _foreseen(
        Event(EpochEnds(2), PruneUnits(layers=("0", "2"), amount=Share(0.5))),
        Event(EverySteps(19, last=19), Grow(layers=("0",), amount=Count(2))),
        Event(At(19), Widen(layers=("0",), amount=Share(0.5))),
        Event(AtRandom(0.05, first=1), Shock(shock=Size(size=0.1), layers=("0",)), "jolt"),
    ) == [
        (1, "jolt", {"0": (8, 8)}),
        (18, "grow", {"0": (8, 10)}),
        (19, "prune units", {"0": (10, 5), "2": (6, 3)}),
        (19, "widen", {"0": (5, 7)}),
        (39, "prune units", {"0": (7, 3), "2": (3, 1)}),
    ]


def test_widths_that_depend_on_what_is_measured_are_unknown_from_there_on() -> None:
    grow = Event(At(5, 30), Grow(layers=("0",), amount=Count(2), at_most=9))
    assert _foreseen(Event(At(4), PruneDormant(layers=("0",))), grow) == [
        (4, "prune dormant", {"0": (8, None)}),
        (5, "grow", {"0": (None, None)}),
        (30, "grow", {"0": (None, None)}),
    ]
    plateau = Event(OnPlateau(patience=3), Widen(layers=("0",), amount=Count(1)))
    assert _foreseen(plateau, grow)[0] == (5, "grow", {"0": (None, None)})
    harmless = Event(OnPlateau(patience=3), Shock(shock=Size(size=0.1), layers=("0",)))
    assert _foreseen(harmless, Event(At(5), Grow(layers=("0",), amount=Count(2))))[0][2] == {"0": (8, 10)}


def test_layer_pruned_to_nothing_or_grown_beyond_its_limit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"event 'thin' at step 19, layer 0: 1 of its 4 units must stay, .* leaves 0"):
        _foreseen(Event(EpochEnds(), PruneUnits(layers=("0", "2"), amount=Count(4)), "thin"))
    with pytest.raises(ValueError, match=r"event 'grow' at step 29, layer 0: .* 16 units at most, .* makes it 17"):
        _foreseen(Event(EpochEnds(), Grow(layers=("0",), amount=Count(3), at_most=16)))
    with pytest.raises(ValueError, match="event 'prune units' on a plateau, layer 0"):
        _foreseen(Event(OnPlateau(patience=3), PruneUnits(layers=("0",), amount=Count(8))))
