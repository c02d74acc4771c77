"""What has been measured so far; which rate is a rule's, and how do its runs compare with full training's?

results.jsonl has a line per run and times.jsonl one per timed rule; both are only ever appended to. Rates are chosen
on held-out samples, with the first seed; test samples decide nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypeAlias

from experiments.records import newest, read_records
from experiments.sparse_peers.config import RATES, SEEDS, SMALL, TASKS, Cell, Task
from experiments.sparse_peers.rules import FULL

__all__ = [
    "FOLDER",
    "Counted",
    "Ratios",
    "Run",
    "Timing",
    "at_the_edge",
    "choose",
    "counted",
    "differences",
    "pending",
    "ratios",
    "read_runs",
    "read_timings",
    "state_ratio",
]

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Run:
    """One rule, task, optimiser, rate and seed: a line of results.jsonl."""

    size: str
    net: str
    data: str
    optimizer: str
    rule: str
    rate: float
    seed: int
    steps: int
    learned: float
    """Share of the layer-steps at which a layer learned."""
    state_bytes: int
    """The most of optimiser state that was kept from one step to the next."""
    held_out_accuracy: float | None
    """A fraction; None: it diverged, or has a seed that nothing is chosen with."""
    test_accuracy: float | None
    """A fraction; None: it diverged."""
    wall_s: float
    """Of all of it: training, evaluation, and reading the data where that was not done yet."""
    machine: Mapping[str, Any]
    """What it was measured on, the commit included."""

    @property
    def cell(self) -> Cell:
        return Cell(self.size, Task(self.net, self.data), self.optimizer, self.rule)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A rule's milliseconds of a microbatch: a line of times.jsonl."""

    run: str
    """When the process began in which all were timed that are compared."""
    size: str
    net: str
    optimizer: str
    rule: str
    rounds: int
    steps: int
    learned: float
    """Share of the timed layer-steps at which a layer learned."""
    forward_ms: float
    backward_ms: float
    update_ms: float
    step_ms: float
    """From the start of a microbatch to that of the next."""
    machine: Mapping[str, Any]


class Ratios(NamedTuple):
    """A rule's time as a part of full training's with the same network and optimiser in the same process."""

    backward: float
    step: float


Counted: TypeAlias = Mapping[Cell, Mapping[int, Run]]
"""The runs at the rate that was chosen, by cell and seed."""


def read_runs(folder: Path = FOLDER) -> list[Run]:
    """All runs, in the order in which they were made."""
    return read_records(Run, folder / "results.jsonl")


def read_timings(folder: Path = FOLDER) -> list[Timing]:
    """All timings, in the order in which they were made."""
    return read_records(Timing, folder / "times.jsonl")


def choose(cell: Cell, runs: Iterable[Run]) -> float | None:
    """The rate with the best held-out accuracy, the lowest of equals; None: there are rates to be tried yet."""
    tried = _tried(cell, runs)
    return None if _untried(tried, RATES[cell.optimizer]) else _best(tried)


def pending(cell: Cell, runs: Collection[Run]) -> list[tuple[float, int]]:
    """The rates and seeds that are to be run next; when they have been, there may be others."""
    tried = _tried(cell, runs)
    if rates := _untried(tried, RATES[cell.optimizer]):
        return [(rate, SEEDS[0]) for rate in rates]
    rate = _best(tried)
    done = {run.seed for run in runs if run.cell == cell and run.rate == rate}
    return [(rate, seed) for seed in SEEDS if seed not in done]


def at_the_edge(cell: Cell, rate: float) -> bool:
    """Whether a better rate may lie beyond the grid."""
    return rate in (RATES[cell.optimizer][0], RATES[cell.optimizer][-1])


def counted(runs: Collection[Run]) -> dict[Cell, dict[int, Run]]:
    """The newest run of each seed at the rate that was chosen, of the cells where it has been."""
    by_cell: dict[Cell, list[Run]] = {}
    for run in runs:
        by_cell.setdefault(run.cell, []).append(run)
    found = {}
    for cell, own in by_cell.items():
        if (rate := choose(cell, own)) is not None:
            at_rate = newest((run for run in own if run.rate == rate), lambda run: run.seed)
            found[cell] = {run.seed: run for run in at_rate}
    return found


def differences(own: Counted, cell: Cell) -> dict[int, float]:
    """Points of test accuracy over full training, by seed; of those seeds with which both were run to the end."""
    full = own.get(cell._replace(rule=FULL), {})
    return {
        seed: 100 * (run.test_accuracy - base.test_accuracy)
        for seed, run in own.get(cell, {}).items()
        if (base := full.get(seed)) and run.test_accuracy is not None and base.test_accuracy is not None
    }


def ratios(timings: Sequence[Timing], *, size: str, net: str, optimizer: str, rule: str) -> Ratios | None:
    """Of the newest process that timed both the rule and full training; None: there is none."""
    own = {
        (timing.run, timing.rule): timing
        for timing in timings
        if (timing.size, timing.net, timing.optimizer) == (size, net, optimizer)
    }
    for timing in reversed(list(own.values())):
        if timing.rule == rule and (full := own.get((timing.run, FULL))):
            return Ratios(timing.backward_ms / full.backward_ms, timing.step_ms / full.step_ms)
    return None


def state_ratio(own: Counted, *, optimizer: str, rule: str) -> float | None:
    """The most bytes of optimiser state as a part of full training's, the mean over the tasks that have both."""
    found = []
    for task in TASKS:
        each = (own.get(Cell(SMALL, task, optimizer, name), {}).values() for name in (rule, FULL))
        most, full = (max((run.state_bytes for run in runs), default=0) for runs in each)
        if most and full:
            found.append(most / full)
    return fmean(found) if found else None


def _tried(cell: Cell, runs: Iterable[Run]) -> dict[float, float]:
    """Held-out accuracy with the first seed by rate; what diverged is worse than anything."""
    return {
        run.rate: -1.0 if run.held_out_accuracy is None else run.held_out_accuracy
        for run in runs
        if run.cell == cell and run.seed == SEEDS[0]
    }


def _best(tried: Mapping[float, float]) -> float:
    return max(sorted(tried), key=lambda rate: tried[rate])


def _untried(tried: Mapping[float, float], grid: Sequence[float]) -> list[float]:
    """The inner rates of the grid; then an outer one that is next to the best."""
    if inner := [rate for rate in grid[1:-1] if rate not in tried]:
        return inner
    place = grid.index(_best(tried))
    return [rate for rate in grid[max(0, place - 1) : place + 2] if rate not in tried]
