"""Do schedules give the factors they promise?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni import Constant, Cosine, InTurn, Steps


def test_constant_leaves_the_rate_as_it_was_given() -> None:
    assert {Constant()(step) for step in (0, 7, 10**6)} == {1.0}


def test_steps_multiplies_once_per_step_passed() -> None:
    assert [Steps((2, 4))(step) for step in range(6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_rises_to_one_passes_half_way_and_stays_at_its_floor() -> None:
    schedule = Cosine(total=12, warmup=2, floor=0.1)
    assert [schedule(step) for step in (0, 1, 2, 7, 12, 99)] == pytest.approx([0.5, 1, 1, 0.55, 0.1, 0.1])


@given(total=st.integers(1, 100), floor=st.floats(0, 1), step=st.integers(0, 300))
def test_cosine_stays_between_its_floor_and_one(total: int, floor: float, step: int) -> None:
    assert floor - 1e-12 <= Cosine(total, floor=floor)(step) <= 1 + 1e-12


@pytest.mark.parametrize(("total", "warmup"), [(0, 0), (5, 5), (5, -1)])
def test_a_warmup_outside_the_schedule_is_refused(total: int, warmup: int) -> None:
    with pytest.raises(ValueError, match=r"warmup must lie in \[0, total\)"):
        Cosine(total, warmup)


def test_factors_take_turns_at_the_steps_given_and_begin_again_after_the_last() -> None:
    assert [InTurn((1, 3, 4))(step) for step in range(6)] == [0, 1, 1, 0, 1, 1]
    assert [InTurn((1, 2, 3), factors=(1.0, 0.5, 0.0))(step) for step in range(4)] == [1, 0.5, 0, 1]
    assert InTurn((), factors=(0.3,))(99) == 0.3


def test_turns_that_do_not_increase_or_of_nothing_are_refused() -> None:
    for at in ((0, 2), (3, 2), (2, 2)):
        with pytest.raises(ValueError, match="increasing steps from 1 on, got at"):
            InTurn(at)
    with pytest.raises(ValueError, match="at least one factor"):
        InTurn((1,), factors=())
