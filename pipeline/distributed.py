"""What does one rank do in a run of several processes?

Each rank holds a few neighbouring stages, handles their messages on one thread, and lets its edges' threads wait. A
failure anywhere is published by whoever failed first and ends every rank with that name.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import torch

from pipeline.agreement import agree_on_transport
from pipeline.arrival import Inbox
from pipeline.clock import Clock, WallClock
from pipeline.connections import Connections, Edge, edges, leave_groups
from pipeline.control import Control
from pipeline.edge import SendingEnd
from pipeline.errors import FailureRecord, LostEdge, RemoteFailure, RunError
from pipeline.feed import Feed
from pipeline.keyed import undisturbed
from pipeline.messages import Message, Send, Stop
from pipeline.monitor import StageStatus
from pipeline.placement import place
from pipeline.run import Prepared, build_stage, choose_device, make_feed
from pipeline.session import Session, on_signals, threads
from pipeline.stage import Stage
from pipeline.summary import summarize, write_summary

__all__ = ["run_rank"]

_Delivery: TypeAlias = tuple[int, int, Message] | BaseException
"""(from stage, to stage, message), or why this rank has to stop."""
_STATUS_PERIOD_S = 0.4
_LEAVE_AFTER_S = 1.0
"""A rank that failed leaves once the others know, or after this long if one of them is dead."""


def run_rank(
    prepared: Prepared,
    control: Control,
    *,
    folder: Path | None,
    resume: bool = False,
    on_status: Callable[[Sequence[StageStatus]], None] = lambda statuses: None,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Run this rank's stages until the run is over.

    Args:
        prepared: the run, the same on every rank.
        control: this rank's way to the others; closed when the run is over.
        folder: the run's folder, the same on every rank.
        resume: go on from the folder's newest checkpoint.
        on_status: called on rank 0, from a thread, with every stage's status a few times a second.
        clock: what time is measured by; wall time unless a benchmark asks for another.

    Returns:
        The summary, the same on every rank; rank 0 has written it.

    Raises:
        StageFailure: a stage of this rank failed first.
        RemoteFailure: another rank failed first; names stage, step and cause.
    """
    mailbox: queue.SimpleQueue[_Delivery] = queue.SimpleQueue()
    control.watch(lambda record: mailbox.put(RemoteFailure(record)))
    rank = _Rank(prepared, control, mailbox=mailbox, folder=folder, clock=clock or WallClock())
    try:
        with threads(prepared.config.num_threads), undisturbed():
            rank.set_up(resume=resume)
            rank.run(on_status)
            summary = rank.summarize()
    except BaseException as error:
        record = _publish(error, control, mailbox, folder=folder)
        rank.abort()
        if record.rank == control.world.rank:
            raise
        raise RemoteFailure(record) from error
    control.close()
    leave_groups()
    return summary


class _Rank:
    """The stages of one process, their inboxes and their edges."""

    def __init__(
        self,
        prepared: Prepared,
        control: Control,
        *,
        mailbox: queue.SimpleQueue[_Delivery],
        folder: Path | None,
        clock: Clock,
    ) -> None:
        self._prepared = prepared
        self._control = control
        self._mailbox = mailbox
        self._folder = folder
        self._clock = clock
        self._placement = place(prepared.num_stages, control.world.world_size)
        self._connections = Connections(control, deliver=self._deliver, failed=self._lose)
        self._senders: dict[tuple[int, int], SendingEnd] = {}
        self._stages: dict[int, Stage] = {}
        self._inboxes: dict[int, Inbox] = {}
        self._waited_s = 0.0
        self._feed: Feed | None = None
        self._messages: Iterator[Message] = iter(())

    def set_up(self, *, resume: bool) -> None:
        """Connect to the other ranks and build the stages that live here."""
        world, prepared = self._control.world, self._prepared
        device = choose_device(prepared.config.device, local_rank=world.local_rank)
        self._connect(device)
        for index, rank in enumerate(self._placement):
            if rank == world.rank:
                self._stages[index] = build_stage(prepared, index, clock=self._clock, device=device)
                self._inboxes[index] = Inbox(prepared.config.arrival)
        stages = list(self._stages.values())
        self._session = Session(prepared, stages, folder=self._folder, resume=resume, count=self._control.count)
        if 0 in self._stages:
            self._feed = make_feed(prepared, start=self._session.start)
            self._messages = self._feed.messages()

    def run(self, on_status: Callable[[Sequence[StageStatus]], None]) -> None:
        """Handle messages until every stage here has finished."""
        interrupted = threading.Event()
        over = threading.Event()
        self._connections.start()
        for index in self._stages:
            self._control.put(f"status/{index}", asdict(StageStatus(stage=index)))
        self._control.wait_everyone("start")
        reporter = threading.Thread(
            target=self._report, args=(over, interrupted, on_status), name="status", daemon=True
        )
        reporter.start()
        try:
            with on_signals(interrupted.set, active=threading.current_thread() is threading.main_thread()):
                self._handle_all()
                self._close_edges()
        finally:
            over.set()
            reporter.join()
            self._session.close()

    def summarize(self) -> dict[str, Any]:
        """Exchange the stages' entries; rank 0 writes summary.json."""
        num_stages = self._prepared.num_stages
        for index, entry in zip(self._stages, self._session.entries(), strict=True):
            self._control.put(f"summary/{index}", entry)
        if self._feed is not None:
            self._control.put("stopped at", self._feed.stopped_at)
        if num_stages - 1 in self._stages:
            self._control.put("scalars", self._session.scalars())
        for edge, statistics in self._connections.statistics().items():
            self._control.put(f"{edge}/statistics", asdict(statistics))
        scalars, stopped_at = self._control.gather(["scalars", "stopped at"])
        summary = summarize(
            self._prepared,
            stages=self._control.gather([f"summary/{index}" for index in range(num_stages)]),
            edges=self._gather_edges(),
            scalars=scalars,
            world_size=self._control.world.world_size,
            start=self._session.start,
            stopped_at=stopped_at,
            wall_s=self._session.wall_s,
        )
        if self._folder is not None and self._control.world.rank == 0:
            write_summary(self._folder, summary)
        return summary

    def _gather_edges(self) -> list[dict[str, Any]]:
        found = self._control.gather([f"{edge}/statistics" for edge in self._edges])
        return [
            {"sender": edge.sender, "receiver": edge.receiver, **statistics}
            for edge, statistics in zip(self._edges, found, strict=True)
        ]

    def abort(self) -> None:
        """Break every connection, so that no thread stays blocked. For a run that has failed."""
        self._connections.abort()

    def _connect(self, device: torch.device) -> None:
        choices = agree_on_transport(self._prepared, self._control)
        self._edges = edges(choices, self._placement, self._prepared.bounds)
        self._senders = self._connections.connect(self._edges, device=device)

    def _deliver(self, edge: Edge, message: Message) -> None:
        delivery = edge.sender, edge.receiver, message
        if edge.kind == "in process":
            self._accept(delivery)
        else:
            self._mailbox.put(delivery)

    def _lose(self, edge: Edge, error: BaseException) -> None:
        """What is done with the exception that ended an edge; one that is ours says itself what is wrong."""
        own = edge.ranks.index(self._control.world.rank)
        stages = edge.sender, edge.receiver
        lost = LostEdge(stage=stages[own], gone=stages[1 - own], rank=edge.ranks[1 - own])
        lost.__cause__ = error
        self._mailbox.put(error if isinstance(error, RunError) else lost)

    def _handle_all(self) -> None:
        started_s = self._clock.now()
        order = sorted(self._stages, reverse=True)  # upper stages first: they let the lower ones go on
        while not all(stage.finished for stage in self._stages.values()):
            self._take_delivered()
            turns = [self._take_turn(index) for index in order]
            if not any(turns):
                self._wait_delivered()
        self._account(self._clock.now() - started_s)

    def _account(self, elapsed_s: float) -> None:
        """What the thread did beside its stages' own work, in equal shares."""
        totals = [stage.recorder.totals for stage in self._stages.values()]
        own_s = sum(sum(total.seconds.values()) for total in totals)
        for total in totals:
            total.overhead_s = (elapsed_s - self._waited_s - own_s) / len(totals)

    def _take_turn(self, index: int) -> bool:
        stage, inbox = self._stages[index], self._inboxes[index]
        if index == 0 and not inbox.below and stage.accepts_activation:
            stage.recorder.begin()
            inbox.below.extend((0.0, message) for message in _first(self._messages))
            stage.recorder.end_untraced("data")
        waiting = inbox.turn(stage)
        if waiting is None:
            return False
        _, message = waiting.popleft()
        for send in stage.handle(message):
            self._route(index, send)
        if (drain := stage.drained) is not None:
            stage.recorder.begin()
            self._session.drained(stage, drain)
            stage.recorder.end_untraced("save")
            stage.resume()
        stage.recorder.totals.handled += 1
        self._session.look(stage)
        return True

    def _route(self, sender: int, send: Send) -> None:
        self._senders[sender, send.to].send(send.message)

    def _put(self, sender: int, receiver: int, message: Message) -> None:
        inbox = self._inboxes[receiver]
        (inbox.below if sender < receiver else inbox.above).append((0.0, message))

    def _take_delivered(self) -> None:
        while not self._mailbox.empty():
            self._accept(self._mailbox.get())

    def _wait_delivered(self) -> None:
        started_s = self._clock.now()
        self._accept(self._mailbox.get())
        waited_s = self._clock.now() - started_s
        self._waited_s += waited_s
        for stage in self._stages.values():
            if not stage.finished:
                stage.recorder.waited(waited_s)

    def _accept(self, delivery: _Delivery) -> None:
        if isinstance(delivery, BaseException):
            raise delivery
        sender, receiver, message = delivery
        if sender > receiver and isinstance(message, Stop):
            return  # closes the edge; a stage is stopped from below only
        self._put(sender, receiver, message)

    def _close_edges(self) -> None:
        for (sender, receiver), down in self._senders.items():
            if sender > receiver:
                down.send(Stop(step=self._prepared.config.steps))
        self._connections.wait_stopped()
        self._take_delivered()

    def _report(
        self,
        over: threading.Event,
        interrupted: threading.Event,
        on_status: Callable[[Sequence[StageStatus]], None],
    ) -> None:
        """Publish this rank's statuses, pass signals to the feed, and let rank 0 show everybody's."""
        control = self._control.for_thread()
        keys = [f"status/{index}" for index in range(self._prepared.num_stages)]
        while not over.wait(_STATUS_PERIOD_S):
            for status in self._session.statuses():
                control.put(f"status/{status.stage}", asdict(status))
            if interrupted.is_set():
                control.put("interrupt", self._control.world.rank)
            if self._feed is not None and control.has("interrupt"):
                self._feed.interrupt()
            if self._control.world.rank == 0:
                on_status([StageStatus(**status) for status in control.gather(keys)])


def _first(messages: Iterator[Message]) -> list[Message]:
    message = next(messages, None)
    return [] if message is None else [message]


def _publish(
    error: BaseException,
    control: Control,
    mailbox: queue.SimpleQueue[_Delivery],
    *,
    folder: Path | None,
) -> FailureRecord:
    """Make the failure known everywhere; returns the first one. A lost connection may only be another's failure."""
    if isinstance(error, LostEdge):
        error = _wait_for_cause(error, mailbox)
    if isinstance(error, RemoteFailure):
        record = error.record
    else:
        own = FailureRecord.of(error, rank=control.world.rank)
        record = control.fail(own)
        if record == own and folder is not None:
            (folder / "error.json").write_text(record.to_json())
    control.wait_acknowledged(timeout_s=_LEAVE_AFTER_S)
    return record


def _wait_for_cause(error: BaseException, mailbox: queue.SimpleQueue[_Delivery]) -> BaseException:
    """Give the rank that closed a connection half a second to say why."""
    deadline_s = time.perf_counter() + 0.5
    while (remaining_s := deadline_s - time.perf_counter()) > 0:
        try:
            delivery = mailbox.get(timeout=remaining_s)
        except queue.Empty:
            break
        if isinstance(delivery, RemoteFailure):
            return delivery
    return error
