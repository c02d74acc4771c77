"""What can go wrong, and whose mistake it is.

PipelineError
├── ConfigurationError    the caller's mistake: found before anything starts, exit code 2
│   ├── PartitionError    the stages do not make a chain, or share a tensor
│   └── CheckpointError   a checkpoint that is damaged, missing, or of another model
└── RunError              found while running, exit code 1
    ├── StageFailure      a stage raised; carries stage, step and phase
    ├── NotFinite         a loss, gradient or parameter is NaN or infinite
    ├── StructureError    an event could not be carried out; the stage is as it was before
    ├── ReplayError       a recorded order that the stages cannot have followed
    ├── SaveFailure       something could not be written: the disk is full, or does not let us
    ├── LostEdge          a connection between two stages broke
    ├── LostRank          a rank has died, or has given no sign of life for too long
    ├── LostStore         what the ranks tell one another failures by has died
    └── RemoteFailure     another rank failed first; carries its record
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from traceback import format_exception
from typing import Any

__all__ = [
    "CheckpointError",
    "ConfigurationError",
    "FailureRecord",
    "LostEdge",
    "LostRank",
    "LostStore",
    "NotFinite",
    "PartitionError",
    "PipelineError",
    "RemoteFailure",
    "ReplayError",
    "RunError",
    "SaveFailure",
    "StageFailure",
    "StructureError",
    "blaming",
]


class PipelineError(Exception):
    """Whatever this package raises on purpose."""


class ConfigurationError(PipelineError):
    """What was asked for cannot be run; nothing was started."""


class PartitionError(ConfigurationError):
    """The stages do not make a chain, or a tensor lies in two of them."""


class CheckpointError(ConfigurationError):
    """A checkpoint is missing, damaged, or belongs to another model."""


class RunError(PipelineError):
    """A run failed after it had started."""


class NotFinite(RunError):
    """A loss, gradient or parameter is NaN or infinite."""


class StructureError(RunError):
    """An event could not be carried out; the stage has the structure that it had before."""


class ReplayError(RunError):
    """A recorded order that the stages cannot have followed: it was damaged or changed."""


class StageFailure(RunError):
    """A stage raised while it handled a message; the cause is chained."""

    def __init__(self, *, stage: int, step: int, phase: str, cause: BaseException) -> None:
        super().__init__(f"stage {stage} failed at step {step} in {phase}: {type(cause).__name__}: {cause}")
        self.stage = stage
        self.step = step
        self.phase = phase


class SaveFailure(RunError):
    """A checkpoint, or the record of a run, could not be written; the cause is chained."""

    phase = "checkpoint"

    def __init__(self, *, stage: int, step: int, folder: Path, cause: OSError) -> None:
        advice = _ADVICE.get(cause.errno or 0, "Mend that")
        super().__init__(
            f"stage {stage} could not be saved at step {step}: {cause.filename or folder}: {cause.strerror or cause}. "
            f"{advice}, then resume the run; the checkpoints that were finished before are whole."
        )
        self.stage = stage
        self.step = step


_ADVICE = {
    errno.ENOSPC: "Make room on that disk (keep_last says how many checkpoints are kept)",
    errno.EDQUOT: "Make room within your quota (keep_last says how many checkpoints are kept)",
    errno.EFBIG: "Allow larger files there (ulimit -f)",
    errno.EACCES: "Allow writing there",
    errno.EPERM: "Allow writing there",
    errno.EROFS: "Allow writing there",
}


@contextmanager
def blaming(stage: int, *, step: int, phase: str) -> Iterator[None]:
    """What goes wrong inside the block, beside a `RunError` which says it itself, is a failure of the stage."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        raise StageFailure(stage=stage, step=step, phase=phase, cause=error) from error


@dataclass(frozen=True, kw_only=True)
class FailureRecord:
    """The first failure of a run, as every rank learns of it; the content of error.json."""

    rank: int
    message: str
    stage: int | None = None
    step: int | None = None
    phase: str | None = None
    traceback: str = ""

    @staticmethod
    def of(error: BaseException, *, rank: int) -> FailureRecord:
        """What `rank` has to say of an error of its own, or of the rank that it has lost."""
        where: dict[str, Any] = {name: getattr(error, name, None) for name in ("stage", "step", "phase")}
        rank = error.rank if isinstance(error, LostRank) else rank
        message = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        return FailureRecord(rank=rank, message=message, traceback="".join(format_exception(error)), **where)

    def to_json(self) -> str:
        """The record as text."""
        return json.dumps(asdict(self), indent=1) + "\n"


class LostEdge(RunError):
    """A connection between two stages broke; the transport's own error is chained."""

    def __init__(self, *, stage: int, gone: int, rank: int) -> None:
        super().__init__(
            f"stage {stage} lost its connection to stage {gone} on rank {rank}: that process has died or was killed"
        )
        self.stage = gone


class LostRank(RunError):
    """A rank has died, or has given no sign of life for too long; another one says so."""

    def __init__(self, what: str, *, rank: int, stages: Sequence[int]) -> None:
        held = f"stage {stages[0]}" if len(stages) == 1 else f"stages {stages[0]} to {stages[-1]}"
        super().__init__(f"the process of {held} {what}")
        self.rank = rank
        self.stage = stages[0]


class LostStore(RunError):
    """The store has died, or does not answer; without it nobody learns of a failure, so the run ends."""

    def __init__(self, address: str, *, silent_s: float | None = None) -> None:
        what = "has died or was killed" if silent_s is None else f"has not answered for {silent_s:.0f} s"
        super().__init__(
            f"the store at {address} is lost: the process that serves it (torchrun's agent; rank 0 without one) "
            f"{what}, or the network to it is gone"
        )


class RemoteFailure(RunError):
    """Another rank failed first."""

    def __init__(self, record: FailureRecord) -> None:
        super().__init__(f"rank {record.rank}: {record.message}")
        self.record = record
