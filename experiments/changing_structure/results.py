"""What has been measured so far; which rate is an arm's, and which arms are finalists?

results.jsonl has a line per run and is only ever appended to. Whatever is chosen is chosen on held-out samples, with
the screening seed; the finals have other seeds, and only they see the test samples.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from experiments.changing_structure.arms import ARMS, FAMILIES
from experiments.changing_structure.config import RATES, SCREENING_SEED, TRUE
from experiments.changing_structure.sites import Task
from experiments.records import read_records

__all__ = [
    "FOLDER",
    "Cell",
    "Finals",
    "Run",
    "best_finalist",
    "cell_of",
    "finalists",
    "finals",
    "gain",
    "rates",
    "read_runs",
    "screened",
]

FOLDER = Path(__file__).parent


class Cell(NamedTuple):
    """What is compared, where."""

    arm: str
    task: Task
    length: str = "samples"
    """One of LENGTHS."""
    source: str = TRUE
    """One of SOURCES."""
    size: str = "small"
    """One of SIZES."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: a line of results.jsonl."""

    arm: str
    net: str
    data: str
    length: str
    source: str
    size: str
    rate: float
    seed: int
    steps: int
    """Microbatches."""
    diverged: bool
    held_out_accuracy: float | None
    """A fraction; None: it diverged, or is a final."""
    test_accuracy: float | None
    """A fraction; None: it diverged, or is of the screening."""
    train_loss: float | None
    """In the end, the mean over the first training samples; None: it diverged."""
    num_parameters: int
    """In the end, those that masks hold at 0 not counted."""
    forward_flops: float
    """Of all forwards of the run."""
    sample_flops: float
    """Of a forward of one sample, in the end."""
    num_changes: Mapping[str, int]
    """By event, how often it was carried out: the sum over the stages."""
    cpu_s: float
    """Processor time of all of it: training, evaluation, and reading the data where that was not done yet."""
    wall_s: float
    machine: Mapping[str, Any]

    @property
    def cell(self) -> Cell:
        return Cell(self.arm, Task(self.net, self.data), self.length, self.source, self.size)

    @property
    def accuracy(self) -> float:
        """In %, held out or of the test; 0 for what diverged."""
        found = self.test_accuracy if self.held_out_accuracy is None else self.held_out_accuracy
        return 100 * (found or 0.0)


Finals = Mapping[Cell, Mapping[int, Run]]
"""By seed."""


def read_runs(folder: Path = FOLDER) -> list[Run]:
    """All runs, in the order in which they were made."""
    return read_records(Run, folder / "results.jsonl")


def cell_of(family: str, arm: str, task: Task, length: str) -> Cell:
    """Where an arm's runs are; the arm whose FLOPs are the measure is run once for both lengths."""
    return Cell(arm, task, "samples" if arm == FAMILIES[family].dearest else length)


def rates(runs: Iterable[Run]) -> dict[tuple[str, Task], float]:
    """By arm with a grid of its own and by task, the rate of the best run; the lower one of equals.

    Only where all rates have been tried.
    """
    tried: dict[tuple[str, Task], dict[float, Run]] = {}
    for run in runs:
        if run.seed == SCREENING_SEED and run.cell == Cell(run.arm, run.cell.task) and not ARMS[run.arm].rate_of:
            tried.setdefault((run.arm, run.cell.task), {})[run.rate] = run
    return {
        key: max(sorted(own), key=lambda rate, own=own: own[rate].accuracy)  # type: ignore[misc]
        for key, own in tried.items()
        if all(rate in own for rate in RATES)
    }


def _at_its_rate(run: Run, chosen: Mapping[tuple[str, Task], float]) -> bool:
    return chosen.get((ARMS[run.arm].rate_of or run.arm, run.cell.task)) == run.rate


def screened(runs: Collection[Run]) -> dict[Cell, Run]:
    """The runs with the screening seed, at the rates that were chosen."""
    chosen = rates(runs)
    return {run.cell: run for run in runs if run.seed == SCREENING_SEED and _at_its_rate(run, chosen)}


def finals(runs: Collection[Run]) -> dict[Cell, dict[int, Run]]:
    """The runs with the other seeds, at the rates that were chosen."""
    chosen = rates(runs)
    found: dict[Cell, dict[int, Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        if run.seed != SCREENING_SEED and _at_its_rate(run, chosen):
            found.setdefault(run.cell, {})[run.seed] = run
    return found


def gain(found: Mapping[Cell, Run], family: str, arm: str, length: str) -> float | None:
    """Held-out points over the family's baseline, the mean over the tasks; None: not all have been run."""
    own = FAMILIES[family]
    pairs = [
        (found.get(cell_of(family, arm, task, length)), found.get(cell_of(family, own.baseline, task, length)))
        for task in own.tasks
    ]
    points = [run.accuracy - base.accuracy for run, base in pairs if run is not None and base is not None]
    return mean(points) if len(points) == len(pairs) else None


def finalists(runs: Collection[Run], family: str, length: str) -> list[str]:
    """The controls, and of each group the arm that gained most in the screening; of equals the first.

    Nobody is one before every arm of the family has been screened on every task.
    """
    own, found = FAMILIES[family], screened(runs)
    gains = {arm: gain(found, family, arm, length) for arm in own.arms}
    known = {arm: value for arm, value in gains.items() if value is not None}
    if len(known) < len(gains):
        return []
    return [*own.controls, *(max(group, key=lambda arm: known[arm]) for group in own.groups.values())]


def best_finalist(runs: Collection[Run], family: str) -> str | None:
    """Of those that are no controls, where samples are equal; None: nobody is one yet."""
    own, found = FAMILIES[family], screened(runs)
    others = [arm for arm in finalists(runs, family, "samples") if arm not in own.controls]
    return max(others, key=lambda arm: gain(found, family, arm, "samples") or 0.0) if others else None
