"""What has been measured so far, and what was expected?

results.jsonl has a line per run and is only ever appended to. expected.csv has a line per row of the table.
"""

from __future__ import annotations

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
    """One row, one seed: a line of results.jsonl."""

    row: str
    seed: int
    test: float
    """Perplexity of the test text, with the weights that were best on the validation text."""
    valid: float
    """The best perplexity of the validation text."""
    curve: list[tuple[int, float]]
    """(updates, perplexity of the validation text), before every restart and at the end."""
    cosines: list[tuple[int, float]]
    """(updates, cosine of synthetic with true gradients) at the same updates; empty: there is no synthesizer."""
    updates: int
    words: int
    """Learned from."""
    train_cpu_s: float
    """Processor time of all updates on one thread, without evaluations."""
    wall_s: float
    """Of the whole run, evaluations included, without loading the text."""
    num_parameters: int
    """Of the network."""
    synthesizer_parameters: int
    """Of the synthesizer."""
    settings: dict[str, Any]
    machine: dict[str, Any]


def read_runs(path: Path = RESULTS) -> dict[str, list[Run]]:
    """The newest run of each seed, in the order of the seeds, by row; none if there is no file yet."""
    runs = newest(read_records(Run, path), lambda run: (run.row, run.seed))
    return grouped(runs, lambda run: run.row)
