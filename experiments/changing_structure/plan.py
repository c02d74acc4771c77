"""Which runs are there to be made, in which order, and how many steps does each take?

In the order of what they are worth: rates and screening of all questions, then the finals of one question after the
other. A question is answered on true gradients; whether three of the answers hold decoupled is asked last.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from experiments.changing_structure.arms import ARMS, FAMILIES, LENGTHS, tasks_of
from experiments.changing_structure.config import (
    FULL_SEEDS,
    RATES,
    SCREENING_SEED,
    SEEDS,
    SOURCE_TITLES,
    SOURCES,
    TRUE,
)
from experiments.changing_structure.flops import equal_steps
from experiments.changing_structure.results import Cell, Run, best_finalist, cell_of, finalists, rates
from experiments.changing_structure.sites import SIZES, Site, Task

__all__ = ["CLAIMS", "DECOUPLED", "FULL", "ROUNDS", "Job", "claim_cells", "full_jobs", "site_of"]

CLAIMS = ("prune", "grow", "shock")
"""Questions whose best finalist is compared with the baseline on other gradients, too."""
DECOUPLED = Task("mlp", "fashion")
"""Where."""
FULL = "larger sizes (--full)"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    cell: Cell
    rate: float
    seed: int
    limit: int = 0
    """Above 0: only so many steps, for a try; events and schedules are made for the whole run."""

    def __str__(self) -> str:
        cell = self.cell
        return (
            f"{cell.task.title}, {ARMS[cell.arm].title}, {LENGTHS[cell.length]}, {SOURCE_TITLES[cell.source]}, "
            f"{cell.size}, rate {self.rate:g}, seed {self.seed}"
        )


def site_of(cell: Cell) -> Site:
    """Where an arm is trained, and for how long."""
    if cell.length == "samples":
        steps = ARMS[cell.arm].epochs * SIZES[cell.size].epoch
    else:
        (dearest,) = (family.dearest for family in FAMILIES.values() if family.dearest and cell.arm in family.arms)
        steps = equal_steps(cell.arm, dearest, cell.task, cell.size)
    return Site(task=cell.task, size=cell.size, steps=steps)


def rate_jobs(runs: Collection[Run]) -> list[Job]:
    """Every rate, of the arms that have a grid of their own."""
    return [
        Job(cell=Cell(arm, task), rate=rate, seed=SCREENING_SEED)
        for arm in _arms()
        if not ARMS[arm].rate_of
        for task in tasks_of(arm)
        for rate in RATES
    ]


def screening_jobs(runs: Collection[Run], *, length: str) -> list[Job]:
    """All arms, at the rates that were chosen."""
    cells = [
        cell_of(name, arm, task, length)
        for name, family in FAMILIES.items()
        if length in family.lengths
        for arm in family.arms
        for task in family.tasks
    ]
    return _jobs(runs, cells, [SCREENING_SEED])


def final_jobs(runs: Collection[Run], *, family: str, length: str, size: str = "small") -> list[Job]:
    """The finalists with the other seeds."""
    cells = [
        cell_of(family, arm, task, length)._replace(size=size)
        for arm in finalists(runs, family, length)
        for task in FAMILIES[family].tasks
    ]
    return _jobs(runs, cells, SEEDS if size == "small" else FULL_SEEDS)


def claim_cells(runs: Collection[Run], family: str, source: str) -> list[Cell]:
    """The baseline of a question and its best finalist, on gradients of some source; none before the screening."""
    best = best_finalist(runs, family)
    arms = [] if best is None else [FAMILIES[family].baseline, best]
    return [Cell(arm, DECOUPLED, source=source) for arm in arms]


def decoupled_jobs(runs: Collection[Run]) -> list[Job]:
    """What is compared on gradients of other sources, at the rates of true ones."""
    others = [source for source in SOURCES if source != TRUE]
    return _jobs(
        runs, [cell for name in CLAIMS for source in others for cell in claim_cells(runs, name, source)], SEEDS
    )


def full_jobs(runs: Collection[Run]) -> list[Job]:
    """All finalists at the large size, at the rates of the small one."""
    jobs = [job for name in FAMILIES for job in final_jobs(runs, family=name, length="samples", size="large")]
    return list(dict.fromkeys(jobs))


_FINALS: Mapping[str, Callable[[Collection[Run]], list[Job]]] = {
    f"{FAMILIES[name].title.lower()}, {LENGTHS[length]}: finals": partial(final_jobs, family=name, length=length)
    for name in FAMILIES
    for length in FAMILIES[name].lengths
}
_SCREENING = {f"{words}: screening": partial(screening_jobs, length=length) for length, words in LENGTHS.items()}
ROUNDS: Mapping[str, Callable[[Collection[Run]], list[Job]]] = {
    "rates": rate_jobs,
    **_SCREENING,
    **_FINALS,
    "decoupled": decoupled_jobs,
}
"""Each builds upon those before it."""


def _arms() -> list[str]:
    """Of all questions, in their order, each once."""
    return list(dict.fromkeys(arm for family in FAMILIES.values() for arm in family.arms))


def _jobs(runs: Collection[Run], cells: Iterable[Cell], seeds: Iterable[int]) -> list[Job]:
    chosen = rates(runs)
    keyed = {cell: (ARMS[cell.arm].rate_of or cell.arm, cell.task) for cell in cells}
    return [
        Job(cell=cell, rate=chosen[key], seed=seed) for seed in seeds for cell, key in keyed.items() if key in chosen
    ]
