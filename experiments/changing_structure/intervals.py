"""By how much is an arm better than another, and how sure is that? Run by run, with the same seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from experiments.changing_structure.results import Cell, Finals, Run

__all__ = ["Interval", "compared", "interval"]

_T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""Of Student's t, 97.5 %, by degrees of freedom."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean of paired differences, with a 95 % interval about it."""

    mean: float
    half_width: float | None
    """None: there is a single value."""
    num_values: int

    def __str__(self) -> str:
        return f"{self.mean:+.2f} " + (
            f"({self.num_values})" if self.half_width is None else f"± {self.half_width:.2f}"
        )

    @property
    def word(self) -> str:
        """What the interval says."""
        if self.half_width is None or abs(self.mean) <= self.half_width:
            return "not told apart"
        return "better" if self.mean > 0 else "worse"


def interval(values: Sequence[float]) -> Interval | None:
    """The mean of some differences with its interval; None: there are none."""
    if not values:
        return None
    if len(values) == 1:
        return Interval(mean=values[0], half_width=None, num_values=1)
    half_width = _T_975[len(values) - 1] * stdev(values) / math.sqrt(len(values))
    return Interval(mean=mean(values), half_width=half_width, num_values=len(values))


def compared(found: Finals, ours: Iterable[Cell], theirs: Iterable[Cell]) -> Interval | None:
    """Points of some cells over others, task by task; averaged over the tasks for each seed first.

    None: there is a task without a seed that both have, or no seed that all tasks have.
    """
    by_task = [_points(found.get(a, {}), found.get(b, {})) for a, b in zip(ours, theirs, strict=True)]
    seeds = set.intersection(*map(set, by_task)) if by_task else set()
    return interval([mean(points[seed] for points in by_task) for seed in sorted(seeds)])


def _points(ours: Mapping[int, Run], theirs: Mapping[int, Run]) -> dict[int, float]:
    return {seed: ours[seed].accuracy - theirs[seed].accuracy for seed in ours.keys() & theirs.keys()}
