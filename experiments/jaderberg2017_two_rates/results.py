"""What has been measured so far? results.jsonl has a line per run and is only ever appended to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.records import grouped, newest, read_records

__all__ = ["FOLDER", "RESULTS", "Errors", "Run", "counted", "read_runs"]

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class Errors:
    """How far off the counts of test digits are: the mean of |reported - true|."""

    step: int
    """Digits of each stream that had been learned from."""
    fast: float
    """Of the odd digits since the last tick, over all digits."""
    slow: float
    """Of the threes since the window began, over all ticks."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One method and seed: a line of results.jsonl."""

    method: str
    seed: int
    steps: int
    errors: Sequence[Errors]
    """On the way; the last are those at the end."""
    guess: Errors
    """Of whoever always reports the most frequent count of the position."""
    digit_s: Mapping[str, float]
    """Virtual seconds per digit, by the latency of a message."""
    synthesizer_parameters: int
    wall_s: float
    machine: Mapping[str, Any]
    """What it was measured on, the commit included."""


def read_runs(path: Path = RESULTS) -> list[Run]:
    """All runs, in the order in which they were made; none if there is no file yet."""
    return read_records(_run, path)


def counted(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The newest run of each seed, in the order of the seeds, by method."""
    return grouped(newest(runs, lambda run: (run.method, run.seed)), lambda run: run.method)


def _run(**line: Any) -> Run:
    """Of a line, in which errors are dictionaries."""
    errors = [Errors(**each) for each in line["errors"]]
    return Run(**(line | {"errors": errors, "guess": Errors(**line["guess"])}))
