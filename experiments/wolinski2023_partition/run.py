"""How do networks train with rates from curvature, and which rates does curvature ask for?

    python -m experiments.wolinski2023_partition.run

Looks at eta* along Adam and SGD. For each task tries the settings of every arm with the first seed, runs the best with
the other seeds, and gives Adam and SGD the processor time that the method took. Each run is appended to results.jsonl
at once, each trace to traces.jsonl; what is there is skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal, TypeAlias

import tyro
from rich.console import Console

from experiments.jobs import carry_out
from experiments.records import append_record
from experiments.wolinski2023_partition.config import ARMS, FIRST_ORDER, FULL, TASKS, Task, arms_of
from experiments.wolinski2023_partition.results import (
    RESULTS,
    TRACES,
    Run,
    best_setting,
    counted,
    read_runs,
    read_traces,
)
from experiments.wolinski2023_partition.tracing import TraceJob, trace
from experiments.wolinski2023_partition.training import Job, train

__all__ = ["Kind", "Options", "first_order_try_jobs", "seed_jobs", "timed_jobs", "trace_jobs", "try_jobs"]


Kind: TypeAlias = Literal["first order", "looks", "tries", "seeds", "timed"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure what is not there yet and append it to results.jsonl and traces.jsonl."""

    tasks: tuple[str, ...] = ()
    """Names of tasks; none: all that are run."""
    full: bool = False
    """VGG-11' and the deep MLP at their full width too: many hours."""
    kinds: tuple[Kind, ...] = ("first order", "looks", "tries", "seeds", "timed")
    """What is tried of Adam and SGD, looks at eta* along them, what is tried of the rest, the other seeds, and Adam and
    SGD in the time of the method."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Only these."""
    num_workers: int = 1
    """Runs at the same time: a process of one thread each."""


def try_jobs(runs: Sequence[Run], task: Task) -> list[Job]:
    """Every setting of every arm, with the first seed."""
    return [
        Job(task=task.name, arm=arm, setting=setting, seed=task.seeds[0])
        for arm in arms_of(task)
        for setting in task.tries[arm]
    ]


def first_order_try_jobs(runs: Sequence[Run], task: Task) -> list[Job]:
    """Those of Adam and SGD, which traces need."""
    return [job for job in try_jobs(runs, task) if job.arm in FIRST_ORDER]


def seed_jobs(runs: Sequence[Run], task: Task) -> list[Job]:
    """The best setting of the finalists with the other seeds; Adam and SGD have them when they are timed."""
    best = {arm: best_setting(runs, task, arm) for arm in task.finalists if arm in task.tries}
    return [
        Job(task=task.name, arm=arm, setting=setting, seed=seed)
        for seed in task.seeds[1:]
        for arm, setting in best.items()
        if setting is not None
    ]


def timed_jobs(runs: Sequence[Run], task: Task) -> list[Job]:
    """Adam and SGD at their best with every seed, as long as the method took."""
    own = counted(runs, task, FULL)
    if not own:
        return []
    limit_s = round(mean(run.cpu_s for run in own), 2)
    best = {arm: best_setting(runs, task, arm) for arm in FIRST_ORDER}
    return [
        Job(task=task.name, arm=arm, setting=setting, seed=seed, limit_s=limit_s)
        for seed in task.seeds
        for arm, setting in best.items()
        if setting is not None
    ]


def trace_jobs(runs: Sequence[Run], task: Task) -> list[TraceJob]:
    """Along each arm that is to be traced, at the best rate first."""
    jobs = []
    for arm in task.traced:
        best = best_setting(runs, task, arm)
        if best is not None:
            others = [setting for setting in task.tries[arm] if setting != best] if task.all_traced else []
            jobs += [TraceJob(task=task.name, arm=arm, setting=setting) for setting in (best, *others)]
    return jobs


_MAKERS: Mapping[Kind, Callable[[Sequence[Run], Task], list[Job]]] = {
    "tries": try_jobs,
    "seeds": seed_jobs,
    "timed": timed_jobs,
}


def main(options: Options, *, results: Path = RESULTS, traces: Path = TRACES) -> int:
    """Run what every task needs: what Adam and SGD do and eta* along them first, then the method."""
    console = Console()
    tasks = [task for task in TASKS if (task.name in options.tasks if options.tasks else options.full or task.runs)]
    code = 0
    for task in tasks:
        if "first order" in options.kinds:
            code |= _train_all(first_order_try_jobs, task, options, console, results)
        if "looks" in options.kinds:
            code |= _look_all(task, options, console, results, traces)
    for task in tasks:
        for kind, make in _MAKERS.items():
            if kind in options.kinds:
                code |= _train_all(make, task, options, console, results)
    return code


def _train_all(
    make: Callable[[Sequence[Run], Task], list[Job]], task: Task, options: Options, console: Console, path: Path
) -> int:
    runs = read_runs(path)
    done = {run.key for run in runs}
    jobs = [job for job in make(runs, task) if _key(job) not in done and job.arm in options.arms]

    def write(run: Run) -> None:
        append_record(run, path)
        seen = "diverged" if run.diverged else f"{100 * run.points[-1].held_out_accuracy:.2f} % held out"
        console.print(
            f"{run.task}: {run.arm} {run.setting}, seed {run.seed}: {seen}, {run.num_steps} steps, {run.cpu_s:.1f} s",
            highlight=False,
        )

    return carry_out(jobs, train, name=str, on_result=write, num_workers=options.num_workers, console=console)


def _look_all(task: Task, options: Options, console: Console, results: Path, traces: Path) -> int:
    done = {(found.task, found.arm, found.rate) for found in read_traces(traces)}
    jobs = [
        job
        for job in trace_jobs(read_runs(results), task)
        if (job.task, job.arm, job.setting.rate) not in done and job.arm in options.arms
    ]

    def write(found: list[Any]) -> None:
        for each in found:
            append_record(each, traces)
        console.print(f"{task.name}: looked at along {found[0].arm} {found[0].rate:g}", highlight=False)

    return carry_out(jobs, trace, name=str, on_result=write, num_workers=options.num_workers, console=console)


def _key(job: Job) -> tuple[str, str, Any, int, bool]:
    return job.task, job.arm, job.setting, job.seed, job.limit_s is not None


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
