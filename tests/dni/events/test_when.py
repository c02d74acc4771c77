"""Are events due at the steps that their schedules say, and is what a run cannot have refused?"""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dni import At, AtRandom, EpochEnds, EverySteps, When, foresee


def _draw(step: int) -> float:
    return float(torch.rand((), generator=torch.Generator().manual_seed(step)))


def _steps(when: When, num_steps: int = 60, steps_per_epoch: int | None = None) -> list[int]:
    return foresee(when, num_steps=num_steps, steps_per_epoch=steps_per_epoch, draw=_draw)


@given(
    period=st.integers(1, 7),
    first=st.none() | st.integers(0, 12),
    more=st.none() | st.integers(0, 30),
    steps_per_epoch=st.integers(1, 9),
)
def test_rhythms_are_those_of_a_loop_that_counts(
    period: int, first: int | None, more: int | None, steps_per_epoch: int
) -> None:
    start = period - 1 if first is None else first
    last = None if more is None else start + more
    expected, index = [], start
    while index < 60 and (last is None or index <= last):
        expected.append(index)
        index += period
    assert _steps(EverySteps(period, first=first, last=last)) == expected
    ends = [(epoch + 1) * steps_per_epoch - 1 for epoch in expected]
    found = _steps(EpochEnds(period, first=first, last=last), steps_per_epoch=steps_per_epoch)
    assert found == [step for step in ends if step < 60]


def test_steps_are_those_that_are_named() -> None:
    assert _steps(At(3, 10, 59)) == [3, 10, 59] and repr(At(3, 10)) == "At(3, 10)" and At(3) == At(3) != At(4)


def test_random_steps_are_those_whose_own_number_is_low_and_come_as_often_as_is_said() -> None:
    assert _steps(AtRandom(0.3, first=5, last=50)) == [step for step in range(5, 51) if _draw(step) < 0.3]
    assert len(_steps(AtRandom(0.25), num_steps=2_000)) == pytest.approx(500, rel=0.1)
    assert _steps(AtRandom(1.0)) == list(range(60))


@pytest.mark.parametrize(
    ("when", "message"),
    [
        (At(5, 100), "the step of an event must lie within the run, whose 100 steps end with step 99, got 100"),
        (EverySteps(101), "got 100. Have it earlier, or train for longer"),
        (EverySteps(10, last=100), "the last step of an event"),
        (EpochEnds(11), "whose 10 epochs end with epoch 9, got 10"),
        (EpochEnds(last=10), "the last epoch of an event"),
        (AtRandom(0.1, first=100), "the first step of an event"),
        (AtRandom(0.1, last=200), "the last step of an event"),
    ],
)
def test_events_past_the_end_of_the_run_are_refused(when: When, message: str) -> None:
    when.check(num_steps=300, steps_per_epoch=10)
    with pytest.raises(ValueError, match=re.escape(message)):
        when.check(num_steps=100, steps_per_epoch=10)


def test_epoch_ends_without_epochs_are_refused() -> None:
    for ask in (lambda: EpochEnds().check(num_steps=9, steps_per_epoch=None), lambda: _steps(EpochEnds())):
        with pytest.raises(ValueError, match=r"a known number of steps, but these have none. Use EverySteps"):
            ask()


def test_schedules_that_make_no_sense_are_refused() -> None:
    for steps in ((), (5, 3), (3, 3), (-1,)):
        with pytest.raises(ValueError, match="one step or more, from 0 on and increasing"):
            At(*steps)
    for arguments in ({"period": 0}, {"period": 2, "first": -1}):
        with pytest.raises(ValueError, match="got period="):
            EverySteps(**arguments)
    with pytest.raises(ValueError, match="the last epoch must not come before the first, 4, got 3"):
        EpochEnds(5, last=3)
    for probability in (0.0, 1.1):
        with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
            AtRandom(probability)
