"""Do cadences fall due when they say?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni import Cadence, Periodic


def test_periodic_falls_due_at_the_end_of_each_period() -> None:
    assert [Periodic(3).due(step) for step in range(7)] == [False, False, True, False, False, True, False]
    assert all(Periodic().due(step) for step in range(4))


@given(period=st.integers(1, 50), periods=st.integers(0, 20))
def test_periodic_falls_due_once_per_period(period: int, periods: int) -> None:
    assert sum(Periodic(period).due(step) for step in range(period * periods)) == periods


def test_a_period_below_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        Periodic(0)


def test_periodic_satisfies_the_protocol() -> None:
    assert isinstance(Periodic(), Cadence)
