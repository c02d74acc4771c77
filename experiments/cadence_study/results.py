"""What has been measured so far; which rule and rate are an arm's, and which arms are finalists?

results.jsonl has a line per run and is only ever appended to. Whatever is chosen is chosen on held-out samples, with
the screening seed; the finals have other seeds, and only they see the test samples.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple, TypeAlias

from dni import RateRule
from experiments.cadence_study.arms import ARMS, CONTROLS, DIVIDED, UNIFORM
from experiments.cadence_study.config import CHOSEN_ON, RATES, SCREENING_SEED, TASKS, Task, rules_of
from experiments.records import read_records

__all__ = [
    "FOLDER",
    "NUM_BEST",
    "BlockUpdates",
    "Cell",
    "Choices",
    "Run",
    "Setting",
    "choices",
    "finalists",
    "finals",
    "rates_to_try",
    "read_runs",
    "rules",
    "screened",
    "screening",
]

FOLDER = Path(__file__).parent
NUM_BEST = 2
"""Arms with cadences of their own among the finalists of an optimiser and a comparison, beside the controls."""


class Cell(NamedTuple):
    """What is compared, where."""

    comparison: str
    """One of COMPARISONS."""
    task: Task
    optimizer: str
    arm: str


class Setting(NamedTuple):
    """What is chosen for a cell."""

    rule: RateRule
    rate: float


Choices: TypeAlias = Mapping[Cell, Setting]


@dataclass(frozen=True, kw_only=True)
class BlockUpdates:
    """What a block did in a run."""

    parameters: int
    updates: int
    length: float
    """Microbatches in an update, the mean."""
    noise_scale: float | None
    """The last estimate, in samples; None: it was not measured, or was infinite."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: a line of results.jsonl."""

    size: str
    comparison: str
    net: str
    data: str
    optimizer: str
    arm: str
    rule: RateRule
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
    """After the last update, the mean over the first training samples."""
    blocks: Mapping[str, BlockUpdates]
    """By name; empty if it diverged."""
    wall_s: float
    """Of all of it: training, evaluation, and reading the data where that was not done yet."""
    machine: Mapping[str, Any]

    @property
    def task(self) -> Task:
        return Task(self.net, self.data)

    @property
    def cell(self) -> Cell:
        return Cell(self.comparison, self.task, self.optimizer, self.arm)

    @property
    def setting(self) -> Setting:
        return Setting(self.rule, self.rate)

    @property
    def updates_per_parameter(self) -> float:
        """The mean over all parameters, of those updates that were made; 0 if it diverged."""
        blocks = self.blocks.values()
        return sum(b.parameters * b.updates for b in blocks) / max(1, sum(b.parameters for b in blocks))


def read_runs(folder: Path = FOLDER) -> list[Run]:
    """All runs, in the order in which they were made."""
    return read_records(_run, folder / "results.jsonl")


def screening(runs: Iterable[Run]) -> dict[Cell, dict[Setting, Run]]:
    """The runs of which something is chosen, by cell and setting."""
    found: dict[Cell, dict[Setting, Run]] = {}
    for run in runs:
        if run.size == "small" and run.seed == SCREENING_SEED:
            found.setdefault(run.cell, {})[run.setting] = run
    return found


def rules(runs: Iterable[Run]) -> dict[tuple[str, str, str], RateRule]:
    """By network, optimiser and arm, the rule of the best run of equal samples on CHOSEN_ON, of those there are."""
    return {
        (cell.task.net, cell.optimizer, cell.arm): _best(own.values()).rule
        for cell, own in screening(runs).items()
        if cell.comparison == "samples" and cell.task.data == CHOSEN_ON
    }


def choices(runs: Collection[Run]) -> dict[Cell, Setting]:
    """By cell, the rate of the best run with the arm's rule, of those there are; the lower one of equals."""
    chosen, found = rules(runs), {}
    for cell, own in screening(runs).items():
        rule = chosen.get((cell.task.net, cell.optimizer, cell.arm))
        if fitting := [run for run in own.values() if run.rule == rule]:
            found[cell] = _best(fitting).setting
    return found


def rates_to_try(cell: Cell, chosen: Mapping[Cell, Setting]) -> tuple[float, ...]:
    """All of the grid; where updates are equal, the best one where samples were equal, and the next higher one.

    Arms that update often have fewer steps there, which want higher rates. At the top of the grid, the next lower one.
    """
    grid = RATES[cell.optimizer]
    if cell.comparison == "samples":
        return grid
    setting = chosen.get(cell._replace(comparison="samples"))
    if setting is None:
        return grid
    place = min(grid.index(setting.rate), len(grid) - 2)
    return grid[place : place + 2]


def screened(runs: Collection[Run]) -> dict[Cell, Run]:
    """The chosen runs of the cells in which all has been tried that was to be."""
    tried, chosen, found = screening(runs), choices(runs), {}
    for cell, setting in chosen.items():
        decides = cell.comparison == "samples" and cell.task.data == CHOSEN_ON
        wanted = rules_of(cell.arm, cell.optimizer) if decides else (setting.rule,)
        rates = rates_to_try(cell, chosen)
        if all(Setting(rule, rate) in tried[cell] for rule in wanted for rate in rates):
            found[cell] = tried[cell][setting]
    return found


def finalists(runs: Collection[Run], comparison: str, optimizer: str) -> list[str]:
    """The arms that are run with the other seeds: the controls, and the best of those with cadences of their own.

    Best by held-out accuracy, the mean over the tasks of the points over the uniform arm; of equals the first of ARMS.
    Nobody is one before every arm has been screened on every task.
    """
    found = screened(runs)

    def accuracies(arm: str) -> list[float]:
        own = [found.get(Cell(comparison, task, optimizer, arm)) for task in TASKS]
        return [_accuracy(run) for run in own if run is not None]

    if any(len(accuracies(arm)) < len(TASKS) for arm in ARMS):
        return []
    uniform = accuracies(UNIFORM)
    gains = {arm: mean(a - b for a, b in zip(accuracies(arm), uniform, strict=True)) for arm in DIVIDED}
    return [*CONTROLS, *sorted(DIVIDED, key=lambda arm: -gains[arm])[:NUM_BEST]]


def finals(runs: Collection[Run]) -> dict[Cell, dict[int, Run]]:
    """The runs at what was chosen, with the seeds of the finals, by cell and seed."""
    chosen = choices(runs)
    found: dict[Cell, dict[int, Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        if run.size == "small" and run.seed != SCREENING_SEED and chosen.get(run.cell) == run.setting:
            found.setdefault(run.cell, {})[run.seed] = run
    return found


def _best(runs: Iterable[Run]) -> Run:
    """By held-out accuracy; of equals the one with the lower rate, then the first rule."""
    return max(sorted(runs, key=lambda run: (run.rate, run.rule)), key=_accuracy)


def _accuracy(run: Run) -> float:
    """Held out; nothing for what diverged."""
    return 0.0 if run.held_out_accuracy is None else run.held_out_accuracy


def _run(*, blocks: Mapping[str, Mapping[str, Any]], **line: Any) -> Run:
    return Run(blocks={name: BlockUpdates(**values) for name, values in blocks.items()}, **line)
