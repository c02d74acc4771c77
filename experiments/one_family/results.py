"""What has been measured so far; which rate is a row's, and which rows are finalists?

results.jsonl has a line per run, costs.jsonl one per row and network, speed.jsonl one per row, network and repeat. All
are only ever appended to; of equal cases the newest line counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, TypeAlias

from experiments.one_family.config import ROWS, SEEDS, TASKS, Task
from experiments.records import grouped, newest, read_records

__all__ = [
    "ALWAYS",
    "CHOSEN_ON",
    "FOLDER",
    "NUM_FINALISTS",
    "Run",
    "best_rates",
    "counted",
    "finalists",
    "read_runs",
]

FOLDER = Path(__file__).parent
CHOSEN_ON = "fashion"
"""The data on which a row's rate is chosen, for each network; on the other it is run with that rate."""
NUM_FINALISTS = 8
ALWAYS = ("backprop", "synthetic")
"""Rows that are run with all seeds whatever they come to."""

Rates: TypeAlias = Mapping[tuple[str, str], float]
"""By row and network."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row, task, rate and seed: a line of results.jsonl."""

    row: str
    net: str
    data: str
    rate: float
    seed: int
    steps: int
    refused: str | None
    """Why the source cannot serve a boundary of this network; None: it can."""
    held_out_error: float | None
    """A fraction of all held-out samples; None: it diverged or was refused."""
    test_error: float | None
    probe_cosines: tuple[float, ...]
    """Of the used gradient with the true one at the bottom boundary, at each probe; empty: none is used."""
    probe_weight_cosines: tuple[float, ...]
    """The same of what both make of the gradient of the bottom stage's parameters."""
    used_cosine: float | None
    """The same on training microbatches when the gradient is used (`watch.py`), the mean; None: none is used."""
    wall_s: float
    """Of training, on one thread, all stages in turn; beside whatever else the machine did."""
    machine: Mapping[str, Any]
    """What it was measured on, the commit included."""

    @property
    def task(self) -> Task:
        return self.net, self.data


def read_runs(folder: Path = FOLDER) -> list[Run]:
    """All runs, in the order in which they were made."""
    return read_records(_run, folder / "results.jsonl")


def best_rates(runs: Iterable[Run]) -> Rates:
    """The rate with the lowest held-out error, by row and network; the lower one of equals."""
    own = sorted((run for run in runs if run.data == CHOSEN_ON and run.seed == SEEDS[0]), key=lambda run: run.rate)
    best: dict[tuple[str, str], Run] = {}
    for run in own:
        key = run.row, run.net
        if key not in best or _error(run) < _error(best[key]):
            best[key] = run
    return {key: run.rate for key, run in best.items()}


def counted(runs: Collection[Run]) -> dict[tuple[str, Task], list[Run]]:
    """The newest run of each seed at the row's rate, in the order of the seeds, by row and task."""
    best = best_rates(runs)
    own = (run for run in runs if run.rate == best.get((run.row, run.net)))
    return grouped(newest(own, lambda run: (run.row, run.task, run.seed)), lambda run: (run.row, run.task))


def finalists(runs: Collection[Run]) -> list[str]:
    """The rows that are run with all seeds, in the order of their held-out error, the mean over all tasks.

    Nobody is one before all rows have been screened on all tasks.
    """
    own = counted(runs)
    first = {
        row: [run for task in TASKS for run in own.get((row, task), ()) if run.seed == SEEDS[0]]
        for row, settings in ROWS.items()
        if not settings.twin
    }
    if any(len(found) < len(TASKS) for found in first.values()):
        return []
    ranked = sorted(first, key=lambda row: mean(map(_error, first[row])))
    return [*ALWAYS, *[row for row in ranked if row not in ALWAYS][:NUM_FINALISTS]]


def _run(**line: Any) -> Run:
    """Of a line, in which tuples are lists."""
    return Run(**line | {name: tuple(line[name]) for name in ("probe_cosines", "probe_weight_cosines")})


def _error(run: Run) -> float:
    """What has no error is worse than any."""
    return 2.0 if run.held_out_error is None else run.held_out_error
