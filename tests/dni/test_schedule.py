"""Do schedules give the factors they promise?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni import Constant, Cosine, Steps


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
