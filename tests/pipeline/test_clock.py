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
