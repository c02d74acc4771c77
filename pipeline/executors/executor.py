"""What does it take to drive a run in this process, and what comes back?

Every executor of one process is an `Execute`: a function of a prepared run. They share what is here: how a failure is
written down, and how a run that is over becomes a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from pipeline.configuration.partition import Partition
from pipeline.configuration.prepared import Prepared
from pipeline.data.feed import Feed
from pipeline.errors import FailureRecord
from pipeline.executors.session import Session
from pipeline.records.folder import write_error
from pipeline.records.monitor import StageStatus
from pipeline.records.network_file import whole_network
from pipeline.records.summary import summarize

__all__ = ["Execute", "OnStatus", "Result", "concluded", "recording", "unseen"]

OnStatus: TypeAlias = Callable[[Sequence[StageStatus]], None]
"""Is shown every stage's status now and then, always from the same thread."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run has come to."""

    summary: dict[str, Any]
    """The content of summary.json."""
    cut: Partition
    """The trained stages."""
    folder: Path | None = None
    """The run's folder, if it was given one."""

    def export(self) -> dict[str, Tensor]:
        """The whole network's state dict, under the names of the unsplit model; gates are folded into the weights."""
        return whole_network(self.cut)


def unseen(statuses: Sequence[StageStatus]) -> None:
    """Nobody looks."""


class Execute(Protocol):
    """Drives a run to its end, in this process."""

    def __call__(
        self,
        prepared: Prepared,
        *,
        folder: Path | None = None,
        resume: bool = False,
        on_status: OnStatus = unseen,
        stop_on_signal: bool = False,
    ) -> Result:
        """Run.

        Args:
            prepared: the run.
            folder: the run's folder; None: nothing is written.
            resume: go on from the folder's newest checkpoint.
            on_status: is shown every stage's status now and then, always from the same thread.
            stop_on_signal: drain and save on SIGINT and SIGTERM instead of dying of them.

        Raises:
            StageFailure: a stage failed first; names stage, step and phase. Whatever else failed then is in its notes.
        """


@contextmanager
def recording(session: Session, folder: Path | None) -> Iterator[None]:
    """Inside the block a run takes place: the session is closed at the end, and a failure written to error.json."""
    try:
        with session:
            yield
    except Exception as error:
        if folder is not None:
            write_error(folder, FailureRecord.of(error, rank=0))
        raise


def concluded(prepared: Prepared, session: Session, feed: Feed, *, folder: Path | None) -> Result:
    """The result of a run that is over; summary.json is written."""
    summary = summarize(
        prepared,
        stages=session.entries(),
        scalars=session.scalars(),
        world_size=1,
        start=session.start,
        stopped_at=feed.stopped_at,
        wall_s=session.wall_s,
    )
    session.conclude(summary)
    return Result(summary=summary, cut=prepared.cut, folder=folder)
