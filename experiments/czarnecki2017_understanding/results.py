"""What has been measured so far, and what does the paper say?

results.jsonl has a line per run and is only ever appended to. expected.csv has a line per statement.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.records import read_lines

__all__ = ["EXPECTED", "FOLDER", "RESULTS", "Expected", "Runs", "read_expected", "read_runs"]

FOLDER = Path(__file__).parent
EXPECTED = FOLDER / "expected.csv"
RESULTS = FOLDER / "results.jsonl"

Runs = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""What was measured, by row and seed."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A line of expected.csv: a statement of the paper, as a bound on a number that table.py computes."""

    row: str
    """A key of table.METRICS."""
    metric: str
    """That number, in words."""
    paper: str
    """What the paper says; it gives no numbers that could be had."""
    trust: str
    """How far it can be trusted: ABS stands in its abstract, NOTES in a reader's notes, MEM is from memory."""
    relation: Literal["<=", ">="]
    bound: float
    """Ours: what we count as agreeing with the statement."""
    ours: float | None
    """What this code gives; None: not written down yet."""
    tolerance: float
    """How far a new value may lie from `ours`."""
    seeds: int

    def holds(self, value: float) -> bool:
        """Whether the statement does, by our bound."""
        return value <= self.bound if self.relation == "<=" else value >= self.bound


def read_expected(path: Path = EXPECTED) -> dict[str, Expected]:
    """The statements by row, in the file's order."""
    with path.open(newline="") as file:
        return {line["row"]: _expected(line) for line in csv.DictReader(file)}


def read_runs(path: Path = RESULTS) -> Runs:
    """The newest run of each row and seed; none if there is no file yet."""
    runs: dict[str, dict[int, Mapping[str, Any]]] = {}
    for line in read_lines(path):
        runs.setdefault(line["row"], {})[line["seed"]] = line
    return runs


def _expected(line: Mapping[str, str]) -> Expected:
    relation = line["relation"]
    assert relation in ("<=", ">=")
    return Expected(
        row=line["row"],
        metric=line["metric"],
        paper=line["paper"],
        trust=line["trust"],
        relation="<=" if relation == "<=" else ">=",
        bound=float(line["bound"]),
        ours=float(line["ours"]) if line["ours"] else None,
        tolerance=float(line["tolerance"]),
        seeds=int(line["seeds"]),
    )
