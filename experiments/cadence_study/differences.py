"""By how much is an arm better than another, and how sure is that? Run by run, with the same seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from experiments.cadence_study.arms import ARMS, CONTROLS, UNIFORM
from experiments.cadence_study.config import SEEDS, TASKS
from experiments.cadence_study.results import Cell, Run

__all__ = [
    "Finals",
    "Interval",
    "beyond_batches",
    "beyond_optimizer",
    "differences",
    "gains",
    "interval",
    "like_uniform",
    "over_tasks",
    "period_of",
]

_T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Of Student's t, 97.5 %, by degrees of freedom."""

Finals = Mapping[Cell, Mapping[int, Run]]
"""By seed."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean of paired differences, with a 95 % interval about it."""

    mean: float
    half_width: float | None
    """None: there is a single value."""
    num_values: int

    @property
    def is_above(self) -> bool:
        """Whether all of it lies above 0."""
        return self.half_width is not None and self.mean > self.half_width

    @property
    def is_below(self) -> bool:
        """Whether all of it lies below 0."""
        return self.half_width is not None and -self.mean > self.half_width

    @property
    def word(self) -> str:
        """What it says of the first of the two."""
        return "better" if self.is_above else "worse" if self.is_below else "not told apart"

    def __str__(self) -> str:
        few = "" if self.num_values == len(SEEDS) else f" ({self.num_values})"
        return f"{self.mean:+.2f}" + ("" if self.half_width is None else f" ± {self.half_width:.2f}") + few


def interval(values: Sequence[float]) -> Interval | None:
    """Mean and Student's interval, mean ± t s / sqrt(n); None: there are no values."""
    if not values:
        return None
    count = len(values)
    half = _T_975[count - 1] * stdev(values) / math.sqrt(count) if count > 1 else None
    return Interval(mean=mean(values), half_width=half, num_values=count)


def differences(finals: Finals, cell: Cell, other: Cell) -> dict[int, float]:
    """Points of test accuracy of a cell over another, by seed; seeds with which either is missing are left out.

    A run that diverged has an accuracy of 0.
    """
    ours, theirs = finals.get(cell, {}), finals.get(other, {})
    return {seed: 100 * (_accuracy(run) - _accuracy(theirs[seed])) for seed, run in ours.items() if seed in theirs}


def over_tasks(pairs: Iterable[Mapping[int, float]]) -> list[float]:
    """The mean over the tasks for each seed that all of them have.

    Args:
        pairs: the differences of each task.
    """
    found = list(pairs)
    return [mean(each[seed] for each in found) for seed in SEEDS if all(seed in each for each in found)]


def period_of(finals: Finals, cell: Cell) -> float | None:
    """Microbatches from one update of a parameter to the next, the mean over parameters and seeds; None: not run."""
    periods = [run.steps / run.updates_per_parameter for run in finals.get(cell, {}).values() if not run.diverged]
    return mean(periods) if periods else None


def like_uniform(finals: Finals, cell: Cell) -> Cell:
    """The uniform arm whose period is nearest, as a ratio: it makes about as many updates of as many samples."""
    period = period_of(finals, cell) or 1.0
    nearest = min(CONTROLS, key=lambda arm: abs(math.log(period / ARMS[arm].period)))
    return cell._replace(arm=nearest)


def gains(finals: Finals, comparison: str, optimizer: str, arm: str) -> Interval | None:
    """Of an arm over the uniform one that learns at every step, over all tasks."""
    return _between(finals, [(cell, cell._replace(arm=UNIFORM)) for cell in _cells(comparison, optimizer, arm)])


def beyond_batches(finals: Finals, comparison: str, optimizer: str, arm: str) -> Interval | None:
    """Of an arm over the uniform one with about as many updates, over all tasks."""
    return _between(finals, [(cell, like_uniform(finals, cell)) for cell in _cells(comparison, optimizer, arm)])


def beyond_optimizer(
    finals: Finals, comparison: str, ours: tuple[str, str], theirs: tuple[str, str]
) -> Interval | None:
    """Of an optimiser with an arm over another optimiser with another arm, over all tasks."""
    cells = (_cells(comparison, *each) for each in (ours, theirs))
    return _between(finals, list(zip(*cells, strict=True)))


def _between(finals: Finals, cells: Sequence[tuple[Cell, Cell]]) -> Interval | None:
    return interval(over_tasks(differences(finals, cell, other) for cell, other in cells))


def _cells(comparison: str, optimizer: str, arm: str) -> list[Cell]:
    return [Cell(comparison, task, optimizer, arm) for task in TASKS]


def _accuracy(run: Run) -> float:
    return 0.0 if run.test_accuracy is None else run.test_accuracy
