"""What was expected of a row of a table, and is it what was found? expected.csv has a line per row."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Expected", "read_expected"]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A line of expected.csv."""

    row: str
    metric: str
    paper: float | None
    """The paper's value; None: it has no such row, or we do not know it."""
    source: str
    """Where it stands."""
    trust: str
    """How far it can be trusted: FIG is read off the paper's own table or plot, README is a table in the authors'
    repository, MEM is from memory."""
    ours: float | None
    """Mean over seeds that this code gives; None: not yet measured."""
    tolerance: float | None
    """How far a new mean may lie from `ours`; None: the row is shown and not run."""
    seeds: int
    """Seeds that the mean needs; 0: the row may be left out."""

    def __post_init__(self) -> None:
        if self.tolerance is None and (self.seeds or self.ours is not None):
            raise ValueError(
                f"expected.csv must give the row {self.row} a tolerance, as it has {self.seeds} seeds and a value of "
                f"ours of {self.ours}; found none. Write one down, or leave out both."
            )

    def misses(self, found: float, *, digits: int, unit: str = "") -> list[str]:
        """What is wrong with the mean over seeds, in words: nothing, or a line.

        Args:
            found: the mean.
            digits: to be shown after the point.
            unit: to be shown behind a number, with a space before it.
        """
        if self.ours is None:
            return [f"{self.row}: expected.csv has no value of ours; the results give {found:.{digits}f}{unit}"]
        if self.tolerance is not None and abs(found - self.ours) > self.tolerance:
            around = f"{self.ours:.{digits}f} ± {self.tolerance:.{digits}f}{unit}"
            return [f"{self.row}: {found:.{digits}f}{unit} lies outside {around}"]
        return []


def read_expected(path: Path) -> dict[str, Expected]:
    """The expectations by row, in the file's order."""
    with path.open(newline="") as file:
        return {line["row"]: _expected(line) for line in csv.DictReader(file)}


def _expected(line: Mapping[str, str]) -> Expected:
    return Expected(
        row=line["row"],
        metric=line["metric"],
        paper=_number(line["paper"]),
        source=line["source"],
        trust=line["trust"],
        ours=_number(line["ours"]),
        tolerance=_number(line["tolerance"]),
        seeds=int(line["seeds"]),
    )


def _number(text: str) -> float | None:
    return float(text) if text else None
