"""How does one rank take part in a run of several processes, and how does it end?

It drives its stages on the calling thread while other threads listen for failures. A failure anywhere is published by
whoever failed or saw it first, and ends every rank with that name.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.clock import Clock, WallClock
from pipeline.configuration.prepared import Prepared
from pipeline.errors import RemoteFailure
from pipeline.executors.failure import Failure
from pipeline.executors.heartbeat import Heartbeat
from pipeline.executors.rank import Rank
from pipeline.executors.session import on_signals, threads
from pipeline.randomness.keyed import undisturbed
from pipeline.records.monitor import StageStatus
from pipeline.transports.connections import leave_groups
from pipeline.transports.control import Control
from pipeline.transports.mailbox import ConnectedMailbox, affordable_spin_s

__all__ = ["run_rank"]

_END_WITHIN_S = 1.0
"""A thread that has not ended by then waits for something that does not come."""
_STUCK_AFTER_S = 10.0
"""A rank whose own thread has not come back by then after a failure is given up: what it does may never end."""


def run_rank(
    prepared: Prepared,
    control: Control,
    *,
    folder: Path | None,
    resume: bool = False,
    on_status: Callable[[Sequence[StageStatus]], None] = lambda statuses: None,
    on_failure: Callable[[BaseException], None] = lambda error: None,
    give_up: Callable[[BaseException], None] = lambda error: None,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Run this rank's stages until the run is over.

    Args:
        prepared: the run, the same on every rank.
        control: this rank's way to the others; closed when the run is over.
        folder: the run's folder, the same on every rank.
        resume: go on from the folder's newest checkpoint.
        on_status: called on rank 0, from a thread, with every stage's status a few times a second.
        on_failure: called once, from any thread, as soon as this rank knows of a failure.
        give_up: called, from a thread, if the failure is known for ten seconds and this rank's own thread is still in
            an operation that may never end; may end the process.
        clock: what time is measured by; wall time unless a benchmark asks for another.

    Returns:
        The summary, the same on every rank; rank 0 has written it.

    Raises:
        StageFailure: a stage of this rank failed first.
        RemoteFailure: another rank failed first, or was lost; names rank, stage, step and cause.
        LostStore: the store has died.
    """
    num_threads = control.world.world_size * prepared.config.num_threads
    mailbox = ConnectedMailbox(spin_s=affordable_spin_s(num_threads))
    failure = Failure(mailbox, rank=control.world.rank, folder=folder, on_known=on_failure)
    rank = Rank(prepared, control, mailbox=mailbox, folder=folder, clock=clock or WallClock())

    def learn(error: BaseException) -> None:
        failure.learn(error)
        rank.wake()

    def lost(error: BaseException, control: Control | None) -> None:
        learn(error)
        if control is not None:
            failure.tell(error, control)

    def look() -> None:
        rank.show(heartbeat, on_status)
        if failure.error is not None and failure.known_for_s > _STUCK_AFTER_S:
            give_up(failure.error)

    heartbeat = Heartbeat(
        control,
        activity=rank.activity,
        stages=rank.stages_of_ranks,
        dead_after_s=prepared.config.dead_after_s,
        lost=lost,
        on_beat=rank.exchange,
        on_look=look,
    )
    in_main = threading.current_thread() is threading.main_thread()
    control.watch(learn)
    heartbeat.start()
    with contextlib.ExitStack() as until_left:
        until_left.enter_context(contextlib.closing(mailbox))
        try:
            with threads(prepared.config.num_threads), undisturbed():
                rank.set_up(resume=resume)
                until_left.enter_context(on_signals(rank.interrupted.set, active=in_main))
                rank.run()
                summary = rank.summarize()
            control.wait_everyone("close")
            heartbeat.stop(timeout_s=_END_WITHIN_S)
            control.leave()
        except BaseException as caught:
            error, record = failure.settle(caught, control, num_gone=lambda: heartbeat.num_gone)
            rank.abort()
            heartbeat.stop(timeout_s=_END_WITHIN_S)
            control.wait_watched(timeout_s=_END_WITHIN_S)
            if record.rank != control.world.rank:
                raise RemoteFailure(record) from error
            if error is caught:
                raise
            raise error from caught
    leave_groups()
    return summary
