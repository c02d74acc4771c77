"""What has been measured so far, and what was expected?

results.jsonl has a line per run and is only ever appended to. expected.csv has a line per row of the table; errors
are percentages of the test set.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    steps: int
    test_error: float
    """A fraction."""
    train_loss: float
    """Mean over the last steps that were logged together (50), per sample."""
    wall_s: float
    """Seconds of training and evaluation, without loading the data."""
    num_parameters: int
    """Of the network."""
    synthesizer_parameters: int
    training_flops_per_sample: int
    """Of an average step: forward, backward, and the synthesizers' prediction and learning."""
    commit: str
    cpu: str
    torch: str
    date: str


def read_runs(path: Path = RESULTS) -> dict[str, list[Run]]:
    """The runs so far, by row; none if there is no file yet."""
    return grouped(read_records(Run, path), lambda run: run.row)
