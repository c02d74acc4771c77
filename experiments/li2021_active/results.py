"""What has been measured so far, and what was expected?

results.jsonl has a line per network and is only ever appended to. expected.csv has a line per row of the claims' table.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["EXPECTED", "FOLDER", "RESULTS", "Expected", "Reset", "Run", "append_run", "read_expected", "read_runs"]

FOLDER = Path(__file__).parent
EXPECTED = FOLDER / "expected.csv"
RESULTS = FOLDER / "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class Reset:
    """What putting one set of parameters back to its initial values has done."""

    unit: str
    """Of the distance."""
    share: float
    """Of all parameters."""
    which: str
    """The set, as in config.SETS."""
    test_accuracy: float
    """Without retraining; a fraction."""
    retrained_accuracy: float | None
    """After retraining; None: was not retrained."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One width, one seed: a line of results.jsonl."""

    width: int
    seed: int
    layer_sizes: list[int]
    """Parameters by layer, from the bottom."""
    num_active: dict[str, list[list[int]]]
    """By unit, for each of the shares: active parameters by layer."""
    moved: list[float]
    """For each of the shares: of the squared distance that all parameters moved together, what the active ones did."""
    initial_accuracy: float
    """A fraction of the test samples, as all accuracies."""
    test_accuracy: float
    """Trained."""
    longer_accuracy: float
    """Trained, nothing put back, and retrained."""
    resets: list[Reset]
    wall_s: float
    settings: dict[str, Any]
    machine: dict[str, Any]

    def reset(self, which: str, *, unit: str, share: float) -> Reset | None:
        """What one set has done, if it was put back; a random set has no unit and serves for each."""
        units = ("", unit)
        return next((r for r in self.resets if (r.which, r.share) == (which, share) and r.unit in units), None)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A line of expected.csv."""

    row: str
    metric: str
    paper: float | None
    """The paper's value; None: not known to us."""
    source: str
    """Where it stands, or what the claim is."""
    trust: str
    """How far it can be trusted."""
    ours: float | None
    """Mean over seeds that this code gives; None: not yet measured."""
    tolerance: float
    """How far a new mean may lie from `ours`."""
    seeds: int
    """Seeds that the mean needs; 0: the row may be left out."""


def read_expected(path: Path = EXPECTED) -> dict[str, Expected]:
    """The expectations by row, in the file's order."""
    with path.open(newline="") as file:
        return {line["row"]: _expected(line) for line in csv.DictReader(file)}


def read_runs(path: Path = RESULTS) -> dict[int, list[Run]]:
    """The newest run of each seed, in the order of the seeds, by width; none if there is no file yet."""
    lines = path.read_text().splitlines() if path.exists() else ()
    newest = {(run.width, run.seed): run for run in map(_run, lines)}
    runs: dict[int, list[Run]] = {}
    for key in sorted(newest):
        runs.setdefault(key[0], []).append(newest[key])
    return runs


def append_run(run: Run, path: Path = RESULTS) -> None:
    """Write a run down for good."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(run)) + "\n")


def _run(line: str) -> Run:
    values = json.loads(line)
    return Run(**values | {"resets": [Reset(**reset) for reset in values["resets"]]})


def _expected(line: Mapping[str, str]) -> Expected:
    return Expected(
        row=line["row"],
        metric=line["metric"],
        paper=float(line["paper"]) if line["paper"] else None,
        source=line["source"],
        trust=line["trust"],
        ours=float(line["ours"]) if line["ours"] else None,
        tolerance=float(line["tolerance"]),
        seeds=int(line["seeds"]),
    )
