"""Does a recorder take down what happened, once, with its times?"""

from __future__ import annotations

from pipeline.clock import VirtualClock
from pipeline.stages.trace import Recorder

COSTS_S = {"F": 1.0, "B": 2.0}


def _recorder() -> Recorder:
    return Recorder(3, VirtualClock(lambda stage, operation: COSTS_S[operation] * stage))


def test_operation_takes_the_time_between_begin_and_end() -> None:
    recorder = _recorder()
    recorder.begin()
    recorder.end("F", 0, version=1, reach=2)
    recorder.mark("S", 0, version=1)
    recorder.begin()
    recorder.end("B", 0, version=1)
    forward, sync, backward = recorder.take_events()
    assert (forward.name(3), forward.start_s, forward.end_s, forward.version, forward.reach) == ("3F0", 0.0, 3.0, 1, 2)
    assert (sync.name(3), sync.start_s, sync.end_s) == ("3S0", 3.0, 3.0)
    assert (backward.start_s, backward.end_s) == (3.0, 9.0)
    assert recorder.totals.busy_s == 9.0 and recorder.totals.operations == {"F": 1, "S": 1, "B": 1}
    assert recorder.totals.seconds == {"F": 3.0, "B": 6.0}


def test_events_and_values_are_given_out_once() -> None:
    recorder = _recorder()
    recorder.mark("D", 7, version=0)
    recorder.measure("loss", 7, 0.5)
    assert [event.name(3) for event in recorder.take_events()] == ["3D7"] and recorder.take_events() == []
    assert recorder.take_values() == [("loss", 7, 0.5)] and recorder.take_values() == []


def test_what_is_not_the_stages_work_leaves_no_event_and_is_not_busy_time() -> None:
    clock = VirtualClock(lambda stage, operation: 0.0)
    recorder = Recorder(0, clock)
    recorder.begin()
    clock.time_s += 2.0
    recorder.end_untraced("save")
    recorder.waited(1.5)
    assert recorder.totals.seconds == {"save": 2.0} and recorder.totals.busy_s == 0.0
    assert recorder.totals.wait_s == 1.5 and recorder.take_events() == []
