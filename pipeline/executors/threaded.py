"""What happens when every stage has a thread of its own, in one process?

The threads are structured: none outlives the call, the first failure is the one raised, with whatever failed after it
in its notes. The calling thread drives no stage; it waits for the threads, shows statuses and takes signals, so that a
KeyboardInterrupt ends everything, too. On GPUs every thread has streams of its own; the stages take the devices in
turn.

A thread starts with PyTorch's own settings: those that belong to the caller's thread (autocast, a default device) do
not reach the stages.
"""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from pipeline.clock import WallClock
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import build_stage, make_feed, make_inbox
from pipeline.data.feed import Feed
from pipeline.errors import RunError
from pipeline.executors.activity import Activity
from pipeline.executors.executor import OnStatus, Result, concluded, recording, unseen
from pipeline.executors.session import Session, on_signals, threads
from pipeline.executors.streams import arrive, depart, own_streams, settle
from pipeline.executors.worker import Worker
from pipeline.messages import Message, Send
from pipeline.randomness.keyed import undisturbed
from pipeline.randomness.turns import Turns
from pipeline.records.monitor import StageStatus
from pipeline.stages.stage import Stage
from pipeline.transports.mailbox import Mailbox
from pipeline.transports.placement import device_of

__all__ = ["run_threaded"]

_STATUS_PERIOD_S = 0.4


def run_threaded(
    prepared: Prepared,
    *,
    folder: Path | None = None,
    resume: bool = False,
    on_status: OnStatus = unseen,
    stop_on_signal: bool = False,
) -> Result:
    """Run with a thread per stage; see `Execute`. `on_status` is called on the calling thread."""
    config = prepared.config
    clock, turns = WallClock(), Turns()
    devices = [device_of(config.device, local_rank=index) for index in range(prepared.num_stages)]
    with threads(config.num_threads), undisturbed():
        stages = [
            build_stage(prepared, index, clock=clock, device=device, turns=turns)
            for index, device in enumerate(devices)
        ]
        session = Session(prepared, stages, folder=folder, resume=resume)
        feed = make_feed(prepared, start=session.start)
        with recording(session, folder), on_signals(feed.interrupt, active=stop_on_signal):
            settle(devices)  # the stages were built, and the data perhaps made, on this thread's stream
            crew = _Crew(prepared, stages, session=session, messages=_in_turn(feed, turns, stages[0]), clock=clock)
            crew.run(on_status)
            settle(devices)
        if turns.suspicious:
            _warn_of_unknown_draws()
    return concluded(prepared, session, feed, folder=folder)


class _Crew:
    """A thread for each stage, from their start to the end of the last."""

    def __init__(
        self,
        prepared: Prepared,
        stages: Sequence[Stage],
        *,
        session: Session,
        messages: Iterator[Message],
        clock: WallClock,
    ) -> None:
        self._session = session
        self._num_threads = prepared.config.num_threads
        self._devices = [stage.device for stage in stages]
        self._mailboxes: list[Mailbox] = [queue.SimpleQueue() for _ in stages]
        ends = [(stage.index, stage.index + way) for stage in stages for way in (-1, 1)]
        ends += prepared.direct
        self._num_sent = dict.fromkeys(ends, 0)
        """Messages by (from stage, to stage); each entry is written by one thread."""
        self._ended: queue.SimpleQueue[tuple[int, BaseException | None]] = queue.SimpleQueue()
        """Which worker has ended, and of what, in this order."""
        self._activities = {stage.index: Activity() for stage in stages}
        self._workers = {
            stage.index: Worker(
                {stage.index: stage},
                inboxes={stage.index: make_inbox(prepared, stage.index)},
                session=session,
                clock=clock,
                mailbox=self._mailboxes[stage.index],
                route=self._route,
                messages=messages if stage.index == 0 else iter(()),
                arrive=arrive,
                activity=self._activities[stage.index],
            )
            for stage in stages
        }

    def run(self, on_status: OnStatus) -> None:
        """Let all stages finish; `on_status` is called a few times a second and at the end.

        Raises:
            BaseException: the first failure, or what interrupted this thread.
        """
        # Daemons, so that a second Ctrl-C while a stage's own code hangs can still end the program.
        crew = [
            threading.Thread(target=self._work, args=(index,), name=f"stage {index}", daemon=True)
            for index in self._workers
        ]
        try:
            for thread in crew:
                thread.start()
            self._wait_ended(on_status)
        except BaseException as first:
            for mailbox in self._mailboxes:
                mailbox.put(_Stopped())
            _wait_all(crew)
            for later in self._failures():
                first.add_note(f"Then also: {type(later).__name__}: {later}")
            raise
        _wait_all(crew)

    def _work(self, index: int) -> None:
        self._ended.put((index, self._outcome(index)))

    def _outcome(self, index: int) -> BaseException | None:
        try:
            torch.set_num_threads(self._num_threads)  # each thread has its own
            with own_streams(self._devices[index], self._devices):
                self._workers[index].run()
        except _Stopped:
            return None
        except BaseException as error:  # also SystemExit, which would end this thread and no other
            return error
        return None

    def _wait_ended(self, on_status: OnStatus) -> None:
        running = set(self._workers)
        while running:
            try:
                index, error = self._ended.get(timeout=_STATUS_PERIOD_S)
            except queue.Empty:
                on_status(self._statuses())
                self._refuse_deadlock(running)
                continue
            running.discard(index)
            if error is not None:
                raise error
        on_status(self._statuses())

    def _statuses(self) -> list[StageStatus]:
        statuses = self._session.statuses()
        for status in statuses:
            status.busy = self._activities[status.stage].look().long_at(status.stage)
        return statuses

    def _failures(self) -> Iterator[BaseException]:
        """Those that have not been taken."""
        with suppress(queue.Empty):
            while True:
                _, error = self._ended.get_nowait()
                if error is not None:
                    yield error

    def _route(self, sender: int, send: Send) -> None:
        self._num_sent[sender, send.to] += 1  # before it is there: nobody is thought idle whom something awaits
        self._mailboxes[send.to].put((sender, send.to, depart(send.message)))

    def _refuse_deadlock(self, running: set[int]) -> None:
        """Raise if nobody can ever go on: a hang would say nothing.

        If all wait and nothing is on its way to them, and a second look finds the same counts, then nobody was woken in
        between, and so all waited at the moment that lay between the looks.
        """
        idle = self._idle(running)
        if idle is not None and idle == self._idle(running):
            states = [self._workers[index].describe() for index in sorted(running)]
            raise RunError(f"no stage can go on, each waits for another: {states}")

    def _idle(self, running: set[int]) -> dict[int, int] | None:
        """The messages each worker was delivered, if all wait and have got all that was sent."""
        counts = {}
        for index in running:
            worker = self._workers[index]
            num_sent = sum(count for (_, to), count in self._num_sent.items() if to == index)
            if not worker.waits or worker.num_delivered != num_sent:
                return None
            counts[index] = num_sent
        return counts


class _Stopped(BaseException):
    """The run is over for this worker."""


def _warn_of_unknown_draws() -> None:
    warnings.warn(
        "something drew from PyTorch's process-wide generator out of turn, and the run was over before it was known "
        "what: what stages drew (dropout) may not be what they draw in another executor.",
        stacklevel=3,
    )


def _wait_all(crew: Sequence[threading.Thread]) -> None:
    for thread in crew:
        if thread.ident is not None:  # it was started
            thread.join()


def _in_turn(feed: Feed, turns: Turns, first: Stage) -> Iterator[Message]:
    """What enters the first stage; data that may draw is read in turn with the stages that do."""
    messages = feed.messages()
    if not feed.draws:
        yield from messages
        return
    while True:
        with turns.alone(first.recorder.held_up):
            message = next(messages, None)
        if message is None:
            return
        yield message
