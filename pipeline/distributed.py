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
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pipeline.agreement import agree_on_checkpoint
from pipeline.clock import Clock, WallClock
from pipeline.control import Control
from pipeline.edge import Receiver, Sender
from pipeline.errors import FailureRecord, LostEdge, RemoteFailure
from pipeline.feed import Feed
from pipeline.folder import write_error
from pipeline.keyed import undisturbed
from pipeline.messages import Message, Send, Stop
from pipeline.monitor import StageStatus
from pipeline.run import Prepared, build_stage, choose_device, make_feed, make_inbox
from pipeline.session import Session, on_signals, threads
from pipeline.stage import Stage
from pipeline.summary import summarize, write_summary
from pipeline.worker import Mailbox, Worker

__all__ = ["place", "run_rank"]

_FOREVER = timedelta(days=7)
_STATUS_PERIOD_S = 0.4
_SPARE_SLOTS = 4
_LEAVE_AFTER_S = 1.0
"""A rank that failed leaves once the others know, or after this long if one of them is dead."""


def place(num_stages: int, num_ranks: int) -> list[int]:
    """The rank of each stage: neighbouring stages share a rank, as evenly as can be."""
    return [stage * num_ranks // num_stages for stage in range(num_stages)]


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
    dist.destroy_process_group()
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
        self._receivers: list[Receiver] = []
        self._senders: dict[tuple[int, int], Sender] = {}
        self._started: list[Sender | Receiver] = []
        self._stages: dict[int, Stage] = {}
        self._feed: Feed | None = None

    def set_up(self, *, resume: bool) -> None:
        """Connect to the other ranks and build the stages that live here."""
        world, prepared = self._control.world, self._prepared
        dist.init_process_group(
            "gloo",
            store=dist.PrefixStore("groups", self._control.client()),
            rank=world.rank,
            world_size=world.world_size,
            timeout=_FOREVER,
        )
        self._connect()
        device = choose_device(prepared.config.device, local_rank=world.local_rank)
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
        for edge in self._edges:
            edge.start()
            self._started.append(edge)
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
        scalars, stopped_at = self._control.gather(["scalars", "stopped at"])
        summary = summarize(
            self._prepared,
            stages=self._control.gather([f"summary/{index}" for index in range(num_stages)]),
            scalars=scalars,
            world_size=self._control.world.world_size,
            start=self._session.start,
            stopped_at=stopped_at,
            wall_s=self._session.wall_s,
        )
        if self._folder is not None and self._control.world.rank == 0:
            write_summary(self._folder, summary)
        return summary

    def abort(self) -> None:
        """Break every connection, so that no thread stays blocked. For a run that has failed."""
        for edge in self._started:
            edge.abort()
        for edge in self._started:
            edge.wait_stopped(timeout_s=1.0)
        if dist.is_initialized():
            dist.destroy_process_group()

    @property
    def _edges(self) -> list[Sender | Receiver]:
        return [*self._senders.values(), *self._receivers]

    def _collect(self, name: str, stage: int, part: Any) -> list[Any] | None:
        """Publish a stage's part of something; the rank that publishes the last one gets all of them."""
        num_stages = self._prepared.num_stages
        self._control.put(f"{name}/{stage}", part)
        if self._control.count(name) < num_stages:
            return None
        return self._control.gather([f"{name}/{index}" for index in range(num_stages)])

    def _connect(self) -> None:
        """Make a process group per directed edge between ranks; every rank makes all, in the same order."""
        bounds = self._prepared.bounds
        own = self._control.world.rank
        for lower in range(self._prepared.num_stages - 1):
            for sender, receiver in ((lower, lower + 1), (lower + 1, lower)):
                ends = self._placement[sender], self._placement[receiver]
                if ends[0] == ends[1]:
                    continue
                group = dist.new_group(list(ends), backend="gloo", timeout=_FOREVER)
                if own == ends[0]:
                    self._senders[sender, receiver] = Sender(
                        sender=sender,
                        receiver=receiver,
                        peer=ends[1],
                        group=group,
                        num_slots=bounds[lower] + _SPARE_SLOTS,
                        failed=self._lost(sender, receiver, peer=ends[1], gone=receiver),
                    )
                elif own == ends[1]:
                    self._receivers.append(
                        Receiver(
                            sender=sender,
                            receiver=receiver,
                            peer=ends[0],
                            group=group,
                            deliver=partial(self._deliver, sender, receiver),
                            failed=self._lost(sender, receiver, peer=ends[0], gone=sender),
                        )
                    )

    def _deliver(self, sender: int, receiver: int, message: Message) -> None:
        self._mailbox.put((sender, receiver, message))

    def _lost(self, sender: int, receiver: int, *, peer: int, gone: int) -> Callable[[BaseException], None]:
        """What an edge's thread does with the exception that ended it."""

        def failed(error: BaseException) -> None:
            lost = LostEdge(stage=sender + receiver - gone, gone=gone, rank=peer)
            lost.__cause__ = error
            self._mailbox.put(lost)

        return failed

    def _route(self, sender: int, send: Send) -> None:
        self._senders[sender, send.to].send(send.message)

    def _close_edges(self) -> None:
        for (sender, receiver), down in self._senders.items():
            if sender > receiver:
                down.send(Stop(step=self._prepared.config.steps))
        for edge in self._edges:
            edge.wait_stopped()
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
