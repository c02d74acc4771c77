"""What has been measured so far, and what was expected?

results.jsonl has a line per run and is only ever appended to. expected.csv has a line per row of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.records import grouped, read_records

__all__ = ["EXPECTED", "FOLDER", "RESULTS", "Run", "read_runs"]

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


def read_runs(path: Path = RESULTS) -> dict[str, list[Run]]:
    """The runs so far, by row; none if there is no file yet."""
    return grouped(read_records(Run, path), lambda run: run.row)
