"""Does time pass as it should: really, or only as the cost model says?"""

from __future__ import annotations

import time

import pytest

from pipeline.clock import VirtualClock, WallClock


def test_virtual_time_passes_only_by_what_operations_cost() -> None:
    clock = VirtualClock(lambda stage, operation: stage + len(operation) / 2)
    time.sleep(0.001)
    assert clock.now() == 0.0
    assert clock.spend(2, "F") == 2.5 and clock.now() == 2.5
    clock.time_s = 10.0
    assert clock.spend(0, "F") == 10.5


def test_wall_clock_tells_unix_seconds_that_never_run_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = WallClock()
    assert clock.now() == pytest.approx(time.time(), abs=0.1)
    times = [clock.now() for _ in range(100)]
    assert times == sorted(times) and clock.spend(0, "F") >= times[-1]
    monkeypatch.setattr(time, "time", lambda: 0.0)  # somebody set the machine's clock
    assert clock.now() >= times[-1]


def test_paused_stage_stands_still_in_the_middle_of_its_work() -> None:
    """Pauses from 1 to 4.5 s (two that overlap) and from 6 to 7 s."""
    pauses = [(1, 6.0, 1.0), (1, 1.0, 3.0), (1, 3.0, 1.5), (2, 0.0, 9.0)]
    clock = VirtualClock(lambda stage, operation: 2.0, pauses=pauses)
    assert clock.spend(0, "F") == 2.0
    for start_s, end_s in ((0.0, 5.5), (2.0, 7.5), (4.5, 7.5), (4.0, 7.5), (7.0, 9.0)):
        clock.time_s = start_s
        assert clock.spend(1, "F") == end_s, start_s
    clock.time_s = 4.0
    assert clock.awake_s(1) == 4.5 and clock.awake_s(0) == 4.0 and clock.awake_s(2) == 9.0
    clock.time_s = 6.0
    assert clock.awake_s(1) == 7.0


def test_work_that_ends_as_a_pause_begins_is_not_held_up() -> None:
    clock = VirtualClock(lambda stage, operation: 2.0, pauses=[(0, 2.0, 5.0)])
    assert clock.spend(0, "F") == 2.0
