"""What does one process of a distributed run hold?

A few neighbouring stages, their inboxes and their ends of the edges, all driven by one thread. A heartbeat's threads
call only what says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.clock import Clock
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import build_stage, choose_device, make_feed, make_inbox
from pipeline.data.feed import Feed
from pipeline.errors import LostEdge, RunError
from pipeline.executors.activity import Activity
from pipeline.executors.agreement import agree_on_checkpoint, agree_on_transport
from pipeline.executors.heartbeat import Heartbeat
from pipeline.executors.session import Session
from pipeline.executors.worker import Worker
from pipeline.messages import Input, Message, OutputError, Send, Stop
from pipeline.records.monitor import StageStatus
from pipeline.records.summary import summarize
from pipeline.stages.stage import Stage
from pipeline.transports.connections import Connections, Edge, edges
from pipeline.transports.control import Control
from pipeline.transports.edge import SendingEnd
from pipeline.transports.mailbox import ConnectedMailbox
from pipeline.transports.placement import place

__all__ = ["Rank"]


class Rank:
    """The stages of one process, their inboxes and their edges.

    Args:
        prepared: the run, the same on every rank.
        control: this rank's way to the others.
        mailbox: of the thread that uses this.
        folder: the run's folder; None: nothing is written.
        clock: what time is measured by.
    """

    def __init__(
        self,
        prepared: Prepared,
        control: Control,
        *,
        mailbox: ConnectedMailbox,
        folder: Path | None,
        clock: Clock,
    ) -> None:
        self._prepared = prepared
        self._control = control
        self._mailbox = mailbox
        self._folder = folder
        self._clock = clock
        self._placement = place(prepared.num_stages, control.world.world_size)
        self.activity = Activity()
        self.interrupted = threading.Event()
        self._connections = Connections(control, mailbox, deliver=self._deliver, failed=self._lose)
        self._senders: dict[tuple[int, int, bool], SendingEnd] = {}
        """By the stages that send and receive, and whether beside the chain."""
        self._stages: dict[int, Stage] = {}
        self._statuses: list[StageStatus] = []
        self._runs = self._closes = False
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
            activity=self.activity,
        )

    @property
    def stages_of_ranks(self) -> list[list[int]]:
        """The stages that each rank holds."""
        ranks = range(self._control.world.world_size)
        return [[stage for stage, holder in enumerate(self._placement) if holder == rank] for rank in ranks]

    def run(self) -> None:
        """Handle messages until every stage here has finished."""
        self._connections.start()
        for index in self._stages:
            self._control.put(f"status/{index}", asdict(StageStatus(stage=index)))
        self._control.wait_everyone("start")
        self._runs = True
        with self._session:
            self._worker.run()
            self.activity.begin("closing")
            self._closes = True
            self._close_edges()

    def summarize(self) -> dict[str, Any]:
        """Exchange the stages' entries; the rank of the first stage writes summary.json."""
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
            restarts=self._control.world.attempt,
        )
        self._session.conclude(summary)
        return summary

    def _gather_edges(self) -> list[dict[str, Any]]:
        found = self._control.gather([f"{edge}/statistics" for edge in self._edges])
        return [
            {"sender": edge.sender, "receiver": edge.receiver, "direct": edge.direct, **statistics}
            for edge, statistics in zip(self._edges, found, strict=True)
        ]

    def wake(self) -> None:
        """Have the rank's own thread look for a failure in the one place where it waits for edges alone."""
        if self._closes:
            self._connections.wake()

    def abort(self) -> None:
        """Break every connection, so that no thread stays blocked. For a run that has failed."""
        self._connections.abort()

    def _connect(self, device: torch.device) -> None:
        choices, direct = agree_on_transport(self._prepared, self._control)
        self._edges = edges(choices, self._placement, self._prepared.bounds, direct=direct)
        ends = self._connections.connect(self._edges, device=device)
        self._senders = {(edge.sender, edge.receiver, edge.direct): end for edge, end in ends.items()}

    def _collect(self, name: str, stage: int, part: Any) -> list[Any] | None:
        """Publish a stage's part of something; the rank that publishes the last one gets all of them."""
        num_stages = self._prepared.num_stages
        self._control.put(f"{name}/{stage}", part)
        if self._control.count(name) < num_stages:
            return None
        return self._control.gather([f"{name}/{index}" for index in range(num_stages)])

    def _deliver(self, edge: Edge, message: Message) -> None:
        if edge.direct and isinstance(message, Stop):
            return  # closes the edge; a stage is stopped by the one below
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
        self._senders[sender, send.to, isinstance(send.message, OutputError | Input)].send(send.message)

    def _close_edges(self) -> None:
        for (sender, receiver, direct), end in self._senders.items():
            if sender > receiver or direct:
                end.send(Stop(step=self._prepared.config.steps))
        self._connections.wait_stopped()
        self._worker.take_delivered()

    def exchange(self, control: Control) -> None:
        """Publish this rank's statuses, pass signals to the feed, and fetch everybody's for rank 0. For a thread."""
        if not self._runs:
            return
        for status in self._session.statuses():
            control.put(f"status/{status.stage}", asdict(status))
        if self.interrupted.is_set():
            control.put("interrupt", self._control.world.rank)
        if self._feed is not None and control.has("interrupt"):
            self._feed.interrupt()
        if self._control.world.rank == 0:
            keys = [f"status/{index}" for index in range(self._prepared.num_stages)]
            self._statuses = [StageStatus(**status) for status in control.get_many(keys)]

    def show(self, heartbeat: Heartbeat, on_status: Callable[[Sequence[StageStatus]], None]) -> None:
        """Show what was fetched, and what the signs of life say. For another thread."""
        silences, statuses = heartbeat.silences(), self._statuses
        for status in statuses:
            rank = self._placement[status.stage]
            doing = heartbeat.doing(rank)
            status.rank, status.silent_s = rank, silences.get(rank, 0.0)
            status.busy = "" if doing is None else doing.long_at(status.stage)
        if statuses:
            on_status(statuses)
