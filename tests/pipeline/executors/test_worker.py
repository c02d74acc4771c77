"""Does a worker handle what is its stages', route what is not, and stop when it is told to?"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import cast

import pytest

from pipeline.clock import WallClock
from pipeline.executors.session import Session
from pipeline.executors.worker import Worker
from pipeline.messages import Activation, Drain, Message, Send, Stop
from pipeline.stages.arrival import Inbox
from pipeline.stages.stage import Stage
from pipeline.transports.mailbox import Mailbox
from tests.pipeline.chain import activation, gradient, make_stage


class Looking:
    """Stands for the session."""

    def __init__(self) -> None:
        self.looked: list[int] = []
        self.saved: list[tuple[int, Drain]] = []

    def look(self, stage: Stage) -> bool:
        self.looked.append(stage.index)
        return True

    def drained(self, stage: Stage, drain: Drain) -> None:
        self.saved.append((stage.index, drain))


class Bench:
    """A worker; what it sends upwards is answered at once, by whoever it is sent to."""

    def __init__(self, *indices: int, messages: Iterator[Message] | None = None, room: int | None = None) -> None:
        self.stages = {index: make_stage(index=index, max_in_flight=2, cadence=9) for index in indices}
        self.mailbox: Mailbox = queue.SimpleQueue()
        self.sent: list[tuple[int, int, str, int]] = []
        self.dropped: list[int] = []
        self.session = Looking()
        self.arrived: list[Message] = []
        self.worker = Worker(
            self.stages,
            inboxes={index: Inbox("ready", room=room) for index in indices},
            session=cast(Session, self.session),
            clock=WallClock(),
            mailbox=self.mailbox,
            route=self._route,
            messages=iter(()) if messages is None else messages,
            arrive=self.arrived.append,
        )

    def put(self, *messages: Message) -> None:
        """What the stage below the lowest one here sends."""
        lowest = min(self.stages)
        for message in messages:
            self.mailbox.put((lowest - 1, lowest, message))

    def _route(self, sender: int, send: Send) -> None:
        message = send.message
        self.sent.append((sender, send.to, type(message).__name__, message.step))
        if send.to in self.stages:
            self.worker.accept((sender, send.to, message))
        elif isinstance(message, Activation):
            self.mailbox.put((send.to, sender, gradient(message.step)))
        if getattr(message, "dropped", False):
            self.dropped.append(message.step)


def test_what_is_for_other_stages_is_routed() -> None:
    bench = Bench(1)
    bench.put(activation(0), activation(1), Stop(step=2))
    bench.worker.run()
    up = [(kind, step) for _, to, kind, step in bench.sent if to == 2]
    down = [(kind, step) for _, to, kind, step in bench.sent if to == 0]
    assert up == [("Activation", 0), ("Activation", 1), ("Stop", 2)]
    assert down == [("Gradient", 0), ("Gradient", 1)]
    assert bench.stages[1].recorder.totals.handled == 5 and bench.session.looked == [1] * 5


def test_what_one_of_its_stages_sends_another_is_routed_and_comes_back_without_the_mailbox() -> None:
    bench = Bench(1, 2)
    bench.put(activation(0), Stop(step=1))
    bench.worker.run()
    assert {(1, 2, "Activation", 0), (2, 1, "Gradient", 0), (1, 2, "Stop", 1)} <= set(bench.sent)
    assert [stage.recorder.totals.handled for stage in bench.stages.values()] == [3, 2]


def test_first_stage_takes_what_enters_the_network_as_it_accepts_it() -> None:
    taken = []

    def messages() -> Iterator[Message]:
        for step in range(3):
            taken.append(step)
            assert bench.stages[0].in_flight < 2
            yield activation(step)
        yield Stop(step=3)

    bench = Bench(0, messages=messages())
    bench.worker.run()
    assert taken == [0, 1, 2] and bench.stages[0].finished


def test_every_message_arrives_before_it_is_handled() -> None:
    bench = Bench(2)
    first = activation(0)
    bench.put(first, Stop(step=1))
    bench.worker.run()
    assert bench.arrived == [first, Stop(step=1)]


def test_drained_stage_is_saved_and_goes_on() -> None:
    bench = Bench(1)
    bench.put(activation(0), Drain(step=1, save=True), activation(1), Stop(step=2))
    bench.worker.run()
    assert bench.session.saved == [(1, Drain(step=1, save=True))]
    assert "save" in bench.stages[1].recorder.totals.seconds


def test_activation_that_a_queue_has_no_room_for_is_answered() -> None:
    bench = Bench(2, room=1)
    bench.put(activation(0), activation(1), activation(2), Stop(step=3))
    bench.worker.run()
    assert bench.dropped == [0, 1] and (2, 1, "Gradient", 2) in bench.sent


def test_stop_from_above_closes_an_edge_and_stops_no_stage() -> None:
    bench = Bench(1)
    bench.mailbox.put((2, 1, Stop(step=9)))
    bench.worker.take_delivered()
    assert not bench.stages[1].stopping and bench.worker.num_delivered == 1


def test_exception_in_the_mailbox_ends_the_worker_wherever_it_is() -> None:
    bench = Bench(1)
    bench.put(activation(0))
    bench.mailbox.put(LookupError("somebody else"))
    with pytest.raises(LookupError, match="somebody else"):
        bench.worker.run()
    waiting = Bench(1)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            waiting.worker.run()
        except LookupError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    waiting.mailbox.put(LookupError("while it waits"))
    thread.join()
    assert str(raised[0]) == "while it waits"


def test_time_is_waiting_own_work_or_overhead() -> None:
    bench = Bench(1)
    bench.put(activation(0), Stop(step=1))
    bench.worker.run()
    totals = bench.stages[1].recorder.totals
    assert totals.wait_s >= 0 and totals.overhead_s > 0 and totals.busy_s > 0


def test_state_of_its_stages_is_described_for_the_message_of_a_deadlock() -> None:
    bench = Bench(1, 2)
    assert bench.worker.describe() == (
        "stage 1: in flight 0, accepts True, waiting below 0, above 0, from the last stage 0; "
        "stage 2: in flight 0, accepts True, waiting below 0, above 0, from the last stage 0"
    )
