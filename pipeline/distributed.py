"""What does one rank do in a run of several processes?

Each rank holds a few neighbouring stages, handles their messages on one thread, and lets its edges' threads wait. A
failure anywhere is published by whoever failed first and ends every rank with that name.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.agreement import agree_on_checkpoint, agree_on_transport
from pipeline.clock import Clock, WallClock
from pipeline.connections import Connections, Edge, edges, leave_groups
from pipeline.control import Control
from pipeline.edge import SendingEnd
from pipeline.errors import FailureRecord, LostEdge, RemoteFailure, RunError
from pipeline.feed import Feed
from pipeline.folder import write_error
from pipeline.keyed import undisturbed
from pipeline.messages import Message, Send, Stop
from pipeline.monitor import StageStatus
from pipeline.placement import place
from pipeline.run import Prepared, build_stage, choose_device, make_feed, make_inbox
from pipeline.session import Session, on_signals, threads
from pipeline.stage import Stage
from pipeline.summary import summarize, write_summary
from pipeline.worker import Mailbox, Worker

__all__ = ["run_rank"]

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
    mailbox: Mailbox = queue.SimpleQueue()
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
        mailbox: Mailbox,
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
        self._feed: Feed | None = None

    def set_up(self, *, resume: bool) -> None:
        """Connect to the other ranks and build the stages that live here."""
        world, prepared = self._control.world, self._prepared
        device = choose_device(prepared.config.device, local_rank=world.local_rank)
        self._connect(device)
        for index, rank in enumerate(self._placement):
            if rank == world.rank:
                self._stages[index] = build_stage(prepared, index, clock=self._clock, device=device)
        stages = list(self._stages.values())
        self._session = Session(
            prepared,
            stages,
            folder=self._folder,
            resume=resume,
            choose=partial(agree_on_checkpoint, self._control),
            collect=self._collect,
        )
        if 0 in self._stages:
            self._feed = make_feed(prepared, start=self._session.start)
        self._worker = Worker(
            self._stages,
            inboxes={index: make_inbox(prepared, index) for index in self._stages},
            session=self._session,
            clock=self._clock,
            mailbox=self._mailbox,
            route=self._route,
            messages=iter(()) if self._feed is None else self._feed.messages(),
        )

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
            on_main_thread = threading.current_thread() is threading.main_thread()
            with self._session, on_signals(interrupted.set, active=on_main_thread):
                self._worker.run()
                self._close_edges()
        finally:
            over.set()
            reporter.join()

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

    def _collect(self, name: str, stage: int, part: Any) -> list[Any] | None:
        """Publish a stage's part of something; the rank that publishes the last one gets all of them."""
        num_stages = self._prepared.num_stages
        self._control.put(f"{name}/{stage}", part)
        if self._control.count(name) < num_stages:
            return None
        return self._control.gather([f"{name}/{index}" for index in range(num_stages)])

    def _deliver(self, edge: Edge, message: Message) -> None:
        delivery = edge.sender, edge.receiver, message
        if edge.kind == "in process":
            self._worker.accept(delivery)
        else:
            self._mailbox.put(delivery)

    def _lose(self, edge: Edge, error: BaseException) -> None:
        """What is done with the exception that ended an edge; one that is ours says itself what is wrong."""
        own = edge.ranks.index(self._control.world.rank)
        stages = edge.sender, edge.receiver
        lost = LostEdge(stage=stages[own], gone=stages[1 - own], rank=edge.ranks[1 - own])
        lost.__cause__ = error
        self._mailbox.put(error if isinstance(error, RunError) else lost)

    def _route(self, sender: int, send: Send) -> None:
        self._senders[sender, send.to].send(send.message)

    def _close_edges(self) -> None:
        for (sender, receiver), down in self._senders.items():
            if sender > receiver:
                down.send(Stop(step=self._prepared.config.steps))
        self._connections.wait_stopped()
        self._worker.take_delivered()

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


def _publish(
    error: BaseException,
    control: Control,
    mailbox: Mailbox,
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
            write_error(folder, record)
    control.wait_acknowledged(timeout_s=_LEAVE_AFTER_S)
    return record


def _wait_for_cause(error: BaseException, mailbox: Mailbox) -> BaseException:
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
