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


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A line of expected.csv."""

    row: str
    metric: str
    paper: float | None
    """The paper's value; None: not known to us."""
    source: str
    """Where it stands."""
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


def read_runs(path: Path = RESULTS) -> dict[str, list[Run]]:
    """The newest run of each seed, in the order of the seeds, by row; none if there is no file yet."""
    lines = path.read_text().splitlines() if path.exists() else ()
    newest = {(run.row, run.seed): run for run in (Run(**json.loads(line)) for line in lines)}
    runs: dict[str, list[Run]] = {}
    for key in sorted(newest):
        runs.setdefault(key[0], []).append(newest[key])
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
