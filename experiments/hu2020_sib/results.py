"""What has been measured so far, and what was expected?

results.jsonl has a line per run and is only ever appended to. expected.csv has a line per row; accuracies are
percentages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.records import grouped, newest, read_records

__all__ = ["EXPECTED", "FOLDER", "RESULTS", "Run", "read_runs"]

FOLDER = Path(__file__).parent
EXPECTED = FOLDER / "expected.csv"
RESULTS = FOLDER / "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row, one seed: a line of results.jsonl. Accuracies are fractions, means over the test tasks."""

    row: str
    seed: int
    step_rate: float
    """η, the better of the candidates on validation tasks; 0 with K = 0."""
    validation_accuracy: float
    accuracy: float
    half_width: float
    """Of the 95 % confidence interval of `accuracy`, over tasks."""
    gain: float
    """Over K = 0 with the same features on the same tasks."""
    gain_half_width: float
    """Of the 95 % confidence interval of `gain`, over tasks, in pairs."""
    cosine: float
    """Of the weights' synthetic gradient with the true one, at θ⁰; 0 with K = 0."""
    train_loss: float
    """Mean of the last hundred batches."""
    train_s: float
    """Wall seconds of training the classifier that was tested."""
    machine: Mapping[str, Any]
    """What it was measured on, the commit included."""


def read_runs(path: Path = RESULTS) -> dict[str, list[Run]]:
    """The newest run of each seed, in the order of the seeds, by row; none if there is no file yet."""
    runs = newest(read_records(Run, path), lambda run: (run.row, run.seed))
    return grouped(runs, lambda run: run.row)
