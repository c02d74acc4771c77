"""What has been measured so far, and what was expected?

results.jsonl has a line per run and is only ever appended to. expected.csv has a line per row; accuracies are
percentages.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["EXPECTED", "FOLDER", "RESULTS", "Expected", "Run", "append_run", "read_expected", "read_runs"]

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


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A line of expected.csv."""

    row: str
    metric: str
    paper: float | None
    """The paper's value; None where it has no such row."""
    source: str
    """Where it stands."""
    trust: str
    """How far it can be trusted: README is a table in the authors' repository, MEM is from memory."""
    ours: float | None
    """Mean over seeds that this code gives; None: not yet measured."""
    tolerance: float | None
    """How far a new mean may lie from `ours`, in points; None: the row is not run."""
    seeds: int
    """Seeds that the mean needs; 0: the row is shown and not run."""


def read_expected(path: Path = EXPECTED) -> dict[str, Expected]:
    """The expectations by row, in the file's order."""
    with path.open(newline="") as file:
        return {line["row"]: _expected(line) for line in csv.DictReader(file)}


def read_runs(path: Path = RESULTS) -> dict[str, list[Run]]:
    """The runs so far, by row, the last of each seed; none if there is no file yet."""
    lines = path.read_text().splitlines() if path.exists() else []
    last = {(run.row, run.seed): run for run in (Run(**json.loads(line)) for line in lines)}
    runs: dict[str, list[Run]] = {}
    for key in sorted(last):
        runs.setdefault(key[0], []).append(last[key])
    return runs


def append_run(run: Run, path: Path = RESULTS) -> None:
    """Write a run down for good."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(run)) + "\n")


def _expected(line: Mapping[str, str]) -> Expected:
    return Expected(
        row=line["row"],
        metric=line["metric"],
        paper=float(line["paper"]) if line["paper"] else None,
        source=line["source"],
        trust=line["trust"],
        ours=float(line["ours"]) if line["ours"] else None,
        tolerance=float(line["tolerance"]) if line["tolerance"] else None,
        seeds=int(line["seeds"]),
    )
