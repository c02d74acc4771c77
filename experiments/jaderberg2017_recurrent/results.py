"""What has been measured so far, and what was expected?

results.jsonl has a line per run and is only ever appended to. expected.csv has a line per row of the table.
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
    """One row, one seed: a line of results.jsonl."""

    row: str
    seed: int
    label: str
    """Name that the run was given; rows of one label were measured together."""
    value: float
    """Copying: L R of the longest sequence solved. Characters: bits per character of the test text."""
    valid: float | None
    """Bits per character of the validation text."""
    trying: int | None
    """Copying: L R of the length that was being learned when the budget was spent."""
    error: float | None
    """Copying: bits per bit asked for at that length, mean over the last ten batches."""
    curve: list[tuple[int, float]]
    """(steps, value) wherever the value changed; of the validation text for characters."""
    steps: int
    updates: int
    wall_s: float
    """Seconds of training and evaluation on one thread, without loading the data."""
    num_parameters: int
    """Of the network."""
    synthesizer_parameters: int
    """Of the synthesizer, and of the auxiliary task's network."""
    settings: dict[str, Any]
    machine: dict[str, Any]


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
    """How far it can be trusted: FIG is read off the paper's own table."""
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


def read_runs(path: Path = RESULTS) -> dict[str, list[Run]]:
    """The runs so far, by row; none if there is no file yet."""
    runs: dict[str, list[Run]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        run = Run(**json.loads(line))
        runs.setdefault(run.row, []).append(run)
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
        tolerance=float(line["tolerance"]),
        seeds=int(line["seeds"]),
    )
