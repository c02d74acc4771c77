"""What has been measured so far, and which settings count?

results.jsonl has a line per run and traces.jsonl one per trace; both are only ever appended to. What is best of an arm
on held-out samples, of what was tried with the first seed, counts, and is what the other seeds are run with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.records import newest, read_records
from experiments.wolinski2023_partition.config import TASKS, Setting, Task

__all__ = [
    "FOLDER",
    "RESULTS",
    "TRACES",
    "Look",
    "Point",
    "Run",
    "Trace",
    "at_best",
    "best_point",
    "best_setting",
    "counted",
    "read_runs",
    "read_traces",
]

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.jsonl"
TRACES = FOLDER / "traces.jsonl"


@dataclass(frozen=True, kw_only=True)
class Point:
    """The network at one time of its training."""

    step: int
    cpu_s: float
    """Processor time of all steps so far, summaries among them, looks such as this one not."""
    train_loss: float
    """Of the first 2000 training samples."""
    held_out_loss: float
    held_out_accuracy: float
    """A fraction."""
    test_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: a line of results.jsonl."""

    task: str
    arm: str
    rate: float
    strength: float | None
    seed: int
    limit_s: float | None
    """Processor time after which it was to end; None: it was to end after the task's steps."""
    diverged: bool
    num_steps: int
    cpu_s: float
    summary_s: float
    """Processor time of the summaries."""
    wall_s: float
    """With the looks at it, and with what else the machine did."""
    points: list[Point]
    num_summaries: int
    num_unsolved: int
    """Summaries without rates."""
    negative: dict[str, int]
    """By subset: how many rates found were below zero."""
    stopped: dict[str, int]
    """By subset: how many of the rates used, averaged with older ones, were zero."""
    found: list[dict[str, float] | None]
    """Rates by summary, as found."""
    machine: dict[str, Any]

    @property
    def setting(self) -> Setting:
        return Setting(rate=self.rate, strength=self.strength)

    @property
    def key(self) -> tuple[str, str, Setting, int, bool]:
        return self.task, self.arm, self.setting, self.seed, self.limit_s is not None

    def by_step(self, step: int) -> list[Point]:
        """What was seen up to a step."""
        return [point for point in self.points if point.step <= step]


@dataclass(frozen=True, kw_only=True)
class Look:
    """The loss's curvature along a direction, at one step."""

    step: int
    rates: dict[str, list[float] | None]
    """By rule: eta*, of each tensor or of all at once; None: no rates."""
    changes: dict[str, float | None]
    """By rule: what a step with these rates, those below zero left out, changes in the loss of the samples they come
    from."""
    changes_as_found: dict[str, float | None] = field(default_factory=dict)
    """The same with the rates below zero, of some rules."""
    coupling: float
    """Mean of |H_st| / sqrt |H_ss H_tt| over s != t."""
    num_negative_curvatures: int
    """Eigenvalues of H below zero, its diagonal scaled to 1."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Curvature along a training: a line of traces.jsonl."""

    task: str
    arm: str
    """Which trained."""
    rate: float
    direction: str
    """gradient: of the microbatch. optimiser: the step that it took, over its learning rate."""
    names: list[str]
    """Of the tensors."""
    looks: list[Look]
    interactions: list[list[float]]
    """|H_st| / sqrt |H_ss H_tt|, (S, S): the mean over the last third of the looks."""
    summary_s: float
    """Processor time of a summary, the mean."""
    step_s: float
    """Processor time of a step of the optimiser."""
    machine: dict[str, Any]


def read_runs(path: Path = RESULTS) -> list[Run]:
    """All runs, in the order in which they were made; none if there is no file yet."""
    return read_records(_run, path)


def read_traces(path: Path = TRACES) -> list[Trace]:
    """The newest trace of each task, arm, rate and direction; none if there is no file yet."""
    return newest(read_records(_trace, path), lambda trace: (trace.task, trace.arm, trace.rate, trace.direction))


def at_best(runs: Sequence[Run], traces: Iterable[Trace]) -> list[Trace]:
    """The traces along the best of each arm."""
    best = {(task.name, arm): best_setting(runs, task, arm) for task in TASKS for arm in task.traced}
    return [trace for trace in traces if Setting(rate=trace.rate) == best[trace.task, trace.arm]]


def best_point(points: Sequence[Point]) -> Point:
    """The most accurate on held-out samples; the first of such."""
    return max(points, key=lambda point: point.held_out_accuracy)


def best_setting(runs: Iterable[Run], task: Task, arm: str) -> Setting | None:
    """The most accurate on held-out samples, of what was tried; None: not all of it was yet."""
    tried = {
        run.setting: run
        for run in runs
        if (run.task, run.arm, run.seed, run.limit_s) == (task.name, arm, task.seeds[0], None)
    }
    if not set(task.tries[arm]) <= tried.keys():
        return None
    return max(task.tries[arm], key=lambda setting: _held_out(tried[setting]))


def counted(runs: Sequence[Run], task: Task, arm: str, *, timed: bool = False) -> list[Run]:
    """The newest run of each seed with the best setting, in the order of seeds; timed: of those that end by the clock.

    Where a seed has only a run that ended by the clock, that one has the points of the other.
    """
    best = best_setting(runs, task, arm)
    own = [run for run in runs if (run.task, run.arm, run.setting) == (task.name, arm, best)]
    by_clock = {run.seed: run for run in own if run.limit_s is not None}
    by_steps = {run.seed: run for run in own if run.limit_s is None}
    found: Mapping[int, Run] = by_clock if timed else by_clock | by_steps
    return [found[seed] for seed in task.seeds if seed in found]


def _held_out(run: Run) -> float:
    return 0.0 if run.diverged else best_point(run.points).held_out_accuracy


def _run(points: list[dict[str, Any]], **rest: Any) -> Run:
    return Run(points=[Point(**point) for point in points], **rest)


def _trace(looks: list[dict[str, Any]], **rest: Any) -> Trace:
    return Trace(looks=[Look(**look) for look in looks], **rest)
