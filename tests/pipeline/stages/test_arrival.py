"""Does a stage handle the message whose turn it is?"""

from __future__ import annotations

import pytest
import torch

from pipeline.messages import Drain, Gradient, Stop
from pipeline.stages.arrival import Arrival, Inbox
from pipeline.stages.stage import Stage
from tests.pipeline.chain import WIDTH, activation, make_stage

GRADIENT = Gradient(step=0, value=torch.ones(4, WIDTH))


def _inbox(arrival: Arrival, *, below: bool, above: bool) -> Inbox:
    inbox = Inbox(arrival)
    if below:
        inbox.below.append((0.0, activation(1)))
    if above:
        inbox.above.append((0.0, GRADIENT))
    return inbox


def _free() -> Stage:
    stage = make_stage(max_in_flight=2, cadence=9)
    stage.handle(activation(0))
    return stage


def _full() -> Stage:
    stage = make_stage(max_in_flight=1)
    stage.handle(activation(0))
    return stage


@pytest.mark.parametrize(
    ("arrival", "stage", "below", "above", "turn"),
    [
        ("ready", "free", True, True, "above"),
        ("ready", "free", True, False, "below"),
        ("ready", "free", False, True, "above"),
        ("ready", "free", False, False, None),
        ("ready", "full", True, False, None),
        ("ready", "full", True, True, "above"),
        ("fixed", "free", True, True, "below"),
        ("fixed", "free", False, True, None),  # the activation is next, however long it takes
        ("fixed", "free", True, False, "below"),
        ("fixed", "full", True, False, None),
        ("fixed", "full", True, True, "above"),
        ("fixed", "full", False, True, "above"),
    ],
)
def test_turn_follows_the_arrival_mode(
    arrival: Arrival, stage: str, below: bool, above: bool, turn: str | None
) -> None:
    inbox = _inbox(arrival, below=below, above=above)
    found = inbox.turn(_free() if stage == "free" else _full())
    assert found is (None if turn is None else getattr(inbox, turn))


@pytest.mark.parametrize("arrival", ["ready", "fixed"])
def test_draining_stage_takes_gradients_only(arrival: Arrival) -> None:
    stage = _free()
    stage.handle(Drain(step=1))
    assert _inbox(arrival, below=True, above=False).turn(stage) is None
    inbox = _inbox(arrival, below=True, above=True)
    assert inbox.turn(stage) is inbox.above


def test_messages_of_one_side_stay_in_order() -> None:
    inbox = Inbox("fixed")
    for step in range(3):
        inbox.below.append((float(step), activation(step)))
    turn = inbox.turn(make_stage())
    assert turn is not None
    assert [message.step for _, message in turn] == [0, 1, 2]


def test_preference_for_activations_turns_ready_order_round_and_leaves_fixed_order() -> None:
    for arrival, expected in (("ready", "below"), ("fixed", "below")):
        inbox = _inbox(arrival, below=True, above=True)  # type: ignore[arg-type]
        inbox.prefer = "activations"
        assert inbox.turn(_free()) is getattr(inbox, expected)
        assert inbox.turn(_full()) is inbox.above


def test_queue_without_room_of_its_own_never_drops() -> None:
    inbox = Inbox("ready")
    assert [inbox.put_below(activation(step)) for step in range(9)] == [None] * 9


@pytest.mark.parametrize(("room", "kept"), [(1, [4]), (2, [3, 4]), (4, [1, 2, 3, 4])])
def test_queue_with_little_room_keeps_the_newest(room: int, kept: list[int]) -> None:
    inbox = Inbox("ready", room=room)
    dropped = [inbox.put_below(activation(step)) for step in range(5)]
    assert [message.step for message in dropped if message is not None] == [s for s in range(5) if s not in kept]
    assert [message.step for _, message in inbox.below] == kept


def test_syncs_evaluations_drains_and_stops_are_never_dropped() -> None:
    inbox = Inbox("ready", room=1)
    never = [activation(0, reach=3), activation(1, training=False), Drain(step=2), Stop(step=2), activation(3, reach=2)]
    for message in never:
        assert inbox.put_below(message) is None
    assert inbox.put_below(activation(4, reach=1)) is None, "nor is the newest, whatever it is"
    dropped = inbox.put_below(activation(5, reach=1))
    assert dropped is not None and dropped.step == 4
    assert [message for _, message in inbox.below][:-1] == never
