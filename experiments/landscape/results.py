"""What has been measured so far? results.jsonl and settled.jsonl have a line per run and checkpoint, and only grow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.landscape.config import Job
from experiments.landscape.slices import Line
from experiments.records import newest, read_records

__all__ = ["FOLDER", "RESULTS", "SETTLED", "Record", "Settled", "done", "read_results", "read_settled", "select"]

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.jsonl"
SETTLED = FOLDER / "settled.jsonl"


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


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A run at a step, and what its sources became while the network stood still: a line of settled.jsonl."""

    method: str
    seed: int
    step: int
    num_steps: int
    """Of learning on, from each kind of target."""
    grades: dict[str, list[dict[str, float]]]
    """By what was learned on from, each after those before; and by stage below the last."""
    cpu_s: float
    machine: dict[str, Any]


def read_settled(path: Path = SETTLED) -> list[Settled]:
    """The newest line of each seed and step."""
    return newest(read_records(Settled, path), lambda own: (own.step, own.seed))


def read_results(path: Path = RESULTS) -> list[Record]:
    """The newest record of each run and step."""
    return newest(read_records(Record, path), lambda own: (own.method, own.rate, own.sync or -1.0, own.step, own.seed))


def done(records: Iterable[Record], job: Job, steps: Iterable[int]) -> bool:
    """Whether a run was looked at at all these steps."""
    return set(steps) <= {record.step for record in records if record.job == job}


def select(records: Iterable[Record], method: str, step: int) -> list[Record]:
    """A method's records at a step, by seed; those of the sweep are not among them."""
    return [own for own in records if own.job == Job(method=method, seed=own.seed) and own.step == step]
