"""What has been measured so far? results.jsonl has a line per run and is only ever appended to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "RESULTS", "Errors", "Run", "append_run", "counted", "read_runs"]

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
    return [_run(json.loads(line)) for line in (path.read_text().splitlines() if path.exists() else ())]


def append_run(run: Run, path: Path = RESULTS) -> None:
    """Write a run down for good."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(run)) + "\n")


def counted(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The newest run of each seed, in the order of the seeds, by method."""
    last = {(run.method, run.seed): run for run in runs}
    methods = dict.fromkeys(run.method for run in runs)
    return {method: [last[key] for key in sorted(last) if key[0] == method] for method in methods}


def _run(line: dict[str, Any]) -> Run:
    errors = [Errors(**each) for each in line["errors"]]
    return Run(**(line | {"errors": errors, "guess": Errors(**line["guess"])}))
