"""What has been measured so far, what was expected, and which rate and strength count?

results.jsonl has a line per run and is only ever appended to. In each study, with the first seed, rates are tried
without decay, and then strengths with decay all the time, at the best rate; what is best on held-out samples is what
counts, and what the other windows and seeds are run with.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from experiments.bjorck2021_decay.config import NONE, SEEDS, Arm, Settings, Study

__all__ = [
    "EXPECTED",
    "FOLDER",
    "RESULTS",
    "Case",
    "Expected",
    "Run",
    "append_run",
    "best_rates",
    "best_strengths",
    "counted",
    "of_study",
    "read_expected",
    "read_runs",
]

FOLDER = Path(__file__).parent
EXPECTED = FOLDER / "expected.csv"
RESULTS = FOLDER / "results.jsonl"


class Case(NamedTuple):
    """What a cell of the table is about."""

    optimizer: str
    coupling: str
    """Empty if nothing decays."""
    window: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: a line of results.jsonl."""

    optimizer: str
    coupling: str
    """Empty if nothing decays."""
    window: str
    rate: float
    strength: float
    """0 if nothing decays."""
    seed: int
    train_loss: float | None
    """The mean over the last part of the run; None: the run diverged."""
    held_out_accuracy: float | None
    """A fraction."""
    test_accuracy: float | None
    course: dict[str, list[float]]
    """By measure and weight, as `weight_norm/0.weight`: the mean over each part of the run."""
    wall_s: float
    settings: dict[str, Any]
    machine: dict[str, Any]

    @property
    def case(self) -> Case:
        return Case(self.optimizer, self.coupling, self.window)


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


def read_runs(path: Path = RESULTS) -> list[Run]:
    """All runs, in the order in which they were made; none if there is no file yet."""
    return [Run(**json.loads(line)) for line in (path.read_text().splitlines() if path.exists() else ())]


def append_run(run: Run, path: Path = RESULTS) -> None:
    """Write a run down for good."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(run)) + "\n")


def of_study(runs: Iterable[Run], study: Study) -> list[Run]:
    """The runs that had the settings of a study; what a line does not name is as it was first."""
    return [run for run in runs if Settings(**run.settings) == study.settings]


def best_rates(runs: Iterable[Run], study: Study) -> dict[str, float]:
    """By optimiser, the rate with the best held-out accuracy without decay, of those tried so far in the study."""
    tried = [run for run in of_study(runs, study) if run.window == NONE and run.seed == SEEDS[0]]
    own = {
        name: [run for run in tried if run.optimizer == name and run.rate in rates]
        for name, rates in study.rates.items()
    }
    return {name: _best(found, lambda run: run.rate).rate for name, found in own.items() if found}


def best_strengths(runs: Iterable[Run], study: Study) -> dict[Arm, float]:
    """By arm, the strength with the best held-out accuracy with decay all the time, at that rate."""
    runs = of_study(runs, study)
    rates = best_rates(runs, study)
    best = {}
    for arm, strengths in study.strengths.items():
        case = (Case(arm.optimizer, arm.coupling, "all"), rates.get(arm.optimizer), SEEDS[0])
        own = [run for run in runs if (run.case, run.rate, run.seed) == case and run.strength in strengths]
        if own:
            best[arm] = _best(own, lambda run: run.strength).strength
    return best


def counted(runs: Iterable[Run], study: Study) -> dict[Case, list[Run]]:
    """The newest run of each seed at the study's best rate and strength, in the order of the seeds."""
    runs = of_study(runs, study)
    rates = best_rates(runs, study)
    strengths = {(arm.optimizer, str(arm.coupling)): strength for arm, strength in best_strengths(runs, study).items()}
    last = {
        (run.case, run.seed): run
        for run in runs
        if run.rate == rates.get(run.optimizer)
        and run.strength == (0.0 if run.window == NONE else strengths.get((run.optimizer, run.coupling)))
    }
    found: dict[Case, list[Run]] = {}
    for case, seed in sorted(last):
        found.setdefault(case, []).append(last[case, seed])
    return found


def _best(runs: Iterable[Run], value: Callable[[Run], float]) -> Run:
    """The one with the smallest value of the best; a run that diverged is the worst."""
    return max(sorted(runs, key=value), key=lambda run: run.held_out_accuracy or 0.0)


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
