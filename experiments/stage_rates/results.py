"""What did each run give, and which values are the best on held-out samples?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.records import append_record, newest, read_records
from experiments.stage_rates.config import SEEDS, SETTINGS, Settings

__all__ = ["FOLDER", "RESULTS", "Run", "append_run", "best_value", "finalists", "read_runs"]

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: a line of results.jsonl."""

    task: str
    source: str
    arm: str
    value: float
    """Of what the arm tries."""
    seed: int
    train_loss: float | None
    """Per sample, the mean over the last steps; None: the run diverged."""
    held_out_accuracy: float | None
    """A fraction."""
    test_accuracy: float | None
    cpu_s: float
    """Of training alone."""
    num_unsolved: int
    """Summaries that gave no rates, of all stages."""
    num_summaries: int
    compared: dict[str, Any]
    """What stages see beside the true loss, where that was asked for."""
    settings: dict[str, Any]
    machine: dict[str, Any]

    @property
    def case(self) -> tuple[str, str, str]:
        return self.task, self.source, self.arm

    @property
    def key(self) -> tuple[Any, ...]:
        return *self.case, self.value, self.seed, self.settings["steps"]


def read_runs(path: Path = RESULTS) -> list[Run]:
    """The newest of each run."""
    return newest(read_records(Run, path), lambda run: run.key)


def append_run(run: Run, path: Path = RESULTS) -> None:
    """Write a run down for good."""
    append_record(run, path)


def best_value(runs: Iterable[Run], case: tuple[str, str, str], *, settings: Settings = SETTINGS) -> float | None:
    """The smallest value with the best held-out accuracy, of the first seed; None: nothing was tried."""
    tried = [
        run for run in runs if (run.case, run.seed) == (case, SEEDS[0]) and run.settings["steps"] == settings.steps
    ]
    ordered = sorted(tried, key=lambda run: run.value)
    return max(ordered, key=lambda run: run.held_out_accuracy or 0.0).value if ordered else None


def finalists(runs: Iterable[Run], case: tuple[str, str, str], *, steps: int = SETTINGS.steps) -> list[Run]:
    """The runs of a case at its best value, one per seed."""
    runs = list(runs)
    value = best_value(runs, case)
    return [run for run in runs if run.case == case and run.value == value and run.settings["steps"] == steps]
