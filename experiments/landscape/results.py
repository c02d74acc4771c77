"""What has been measured so far? results.jsonl has a line per run and checkpoint, and is only ever appended to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.landscape.config import Job
from experiments.landscape.slices import Line
from experiments.records import newest, read_records

__all__ = ["FOLDER", "RESULTS", "Record", "done", "read_results", "select"]

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run at a step."""

    method: str
    seed: int
    rate: float
    sync: float | None
    """Probability of a sync, if not the method's own."""
    step: int
    test_error: float
    """A fraction, at this step."""
    train_loss: float
    """On the samples of the slices."""
    lines: dict[str, Line]
    lowest: dict[str, Line]
    """By the gradient that the step is taken with."""
    plane: dict[str, Any] | None
    """Of the first seed only."""
    estimates: list[dict[str, Any]]
    """By part of the network."""
    boundaries: list[dict[str, float]]
    """By stage below the last: what its source is graded."""
    forms: list[dict[str, dict[str, float]]]
    """By stage below the last and form: what a synthesizer fitted to the truth is graded."""
    cpu_s: float
    """Of looking; with the first checkpoint also of training."""
    machine: dict[str, Any]

    @property
    def job(self) -> Job:
        return Job(method=self.method, seed=self.seed, rate=self.rate, sync=self.sync)


def read_results(path: Path = RESULTS) -> list[Record]:
    """The newest record of each run and step."""
    return newest(read_records(Record, path), lambda own: (own.method, own.rate, own.sync or -1.0, own.step, own.seed))


def done(records: Iterable[Record], job: Job, steps: Iterable[int]) -> bool:
    """Whether a run was looked at at all these steps."""
    return set(steps) <= {record.step for record in records if record.job == job}


def select(records: Iterable[Record], method: str, step: int) -> list[Record]:
    """A method's records at a step, by seed; those of the sweep are not among them."""
    return [own for own in records if own.job == Job(method=method, seed=own.seed) and own.step == step]
