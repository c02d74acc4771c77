"""Does a rank say what it is doing, and for how long?"""

from __future__ import annotations

import pytest

from pipeline.executors.activity import Activity, Doing
from tests.pipeline.chain import activation, make_stage


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_long_operation_is_named_with_its_step_and_the_time_it_has_taken(now_s: list[float]) -> None:
    activity = Activity()
    assert str(activity.look()) == "busy in set-up for 0 s"
    activity.begin("checkpoint", stage=1, step=2000)
    now_s[0] += 12.0
    assert str(activity.look()) == "busy in checkpoint of step 2,000 for 12 s"
    activity.begin("waiting")
    now_s[0] += 3.0
    assert str(activity.look()) == "waiting for 3 s" and not activity.look().busy


def test_phase_of_a_message_is_what_the_stage_says_and_counts_from_where_it_was_seen(now_s: list[float]) -> None:
    activity, stage = Activity(), make_stage()
    stage.handle(activation(0))
    activity.handle(stage, 17)
    now_s[0] += 2.0
    assert str(activity.look()) == "busy in forward of step 17 for 2 s"
    assert activity.look().long_at(stage.index) == "busy in forward of step 17 for 2 s"
    assert activity.look().long_at(stage.index + 1) == ""
    stage.learner.phase = "backward"  # type: ignore[misc]
    assert str(activity.look()) == "busy in backward of step 17 for 0 s"
    now_s[0] += 5.0
    assert activity.look() == Doing(phase="backward", stage=1, step=17, for_s=5.0)


def test_what_a_rank_does_survives_the_way_to_the_others() -> None:
    doing = Doing(phase="source learning", stage=3, step=4, for_s=1.5)
    assert Doing.from_json(doing.to_json()) == doing
