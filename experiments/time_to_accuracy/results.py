"""What has been measured so far, and who was fastest?

results.jsonl has a line per run and is only ever appended to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from experiments import records
from experiments.time_to_accuracy.config import ROWS, TASKS, Family
from experiments.time_to_accuracy.curve import Point

__all__ = ["FOLDER", "RESULTS", "Run", "Runs", "fastest", "median_s", "newest", "read_runs"]

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row, one task, one seed: a line of results.jsonl."""

    task: str
    row: str
    seed: int
    points: tuple[Point, ...]
    """Its evaluations, in order."""
    wall_s: float
    """Seconds of training and evaluations, start and end of the run included; importing and reading data not."""
    cpu_s: float
    """Processor seconds of all processes, in the same time."""
    load_before: float
    """Mean number of running processes of the machine in the minute before."""
    machine: Mapping[str, Any]
    """What it was measured on, the commit included."""

    def reached(self, accuracy: float) -> Point | None:
        """The first evaluation with at least this accuracy; None: there was none."""
        return next((point for point in self.points if point.accuracy >= accuracy), None)

    @property
    def to_target_s(self) -> float:
        """Seconds of training until the task's target was reached; infinite if it was not."""
        point = self.reached(TASKS[self.task].target)
        return math.inf if point is None else point.train_s

    @property
    def samples_to_target(self) -> float:
        """Samples trained on until then; infinite if it was not reached."""
        point = self.reached(TASKS[self.task].target)
        return math.inf if point is None else point.samples

    @property
    def samples_per_s(self) -> float:
        """Of the whole run."""
        return self.points[-1].samples / self.points[-1].train_s


Runs = Mapping[tuple[str, str], Sequence[Run]]
"""By task and row."""


def read_runs(path: Path = RESULTS) -> list[Run]:
    """All runs, in the order in which they were made; none if there is no file yet."""
    return records.read_records(_run, path)


def newest(runs: Iterable[Run]) -> Runs:
    """The last run of each task, row and seed, by task and row and in the order of the seeds."""
    last = records.newest(runs, lambda run: (run.task, run.row, run.seed))
    own = records.grouped(last, lambda run: (run.task, run.row))
    return {(task, row): own.get((task, row), []) for task in TASKS for row in ROWS}


def median_s(runs: Sequence[Run], value: Callable[[Run], float] = lambda run: run.to_target_s) -> float:
    """The median over runs, of the time to the target unless of another value; infinite if there are none."""
    return median(map(value, runs)) if runs else math.inf


def fastest(runs: Runs, task: str, family: Family) -> str | None:
    """The row of a family that reaches the target first, by the median; None if none does."""
    rows = [name for name, row in ROWS.items() if row.family == family]
    best = min(rows, key=lambda name: median_s(runs[task, name]))
    return best if math.isfinite(median_s(runs[task, best])) else None


def _run(**line: Any) -> Run:
    """Of a line, in which points are lists."""
    return Run(**line | {"points": tuple(Point(*point) for point in line["points"])})
