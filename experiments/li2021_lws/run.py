"""How accurate is a network of which most steps let only the top learn, and how long did its back-propagation take?

    python -m experiments.li2021_lws.run

Full SGD and one other rule with all rates, then the other rules, then the finalists with all rates and seeds, then full
SGD with fewer steps, then what else there is to choose. Each run is appended to results.jsonl at once;
what is there is skipped.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from experiments.jobs import carry_out
from experiments.li2021_lws.config import (
    EVERYTHING,
    FULL_NETS,
    GRID,
    INVERSE,
    NETS,
    NORMALISED,
    RATES,
    RESCALED,
    SEEDS,
    SHORTENED,
    STATIC,
    TASKS,
    TUNED,
    TUNED_INVERSE,
    WIDE_RULES,
    WIDE_TASK,
    Rule,
    Task,
    make_config,
    split,
)
from experiments.li2021_lws.results import FOLDER, Run, best_rates, counted, finalists, read_runs
from experiments.li2021_lws.spent import Step, full_steps, median_ms, read_steps
from experiments.machine import machine
from experiments.records import append_record
from pipeline import NotFinite, StageFailure, prepare, run_threaded
from pipeline.executors.allocator import keep_freed_memory

__all__ = ["ROUNDS", "Job", "Options", "accuracy", "main", "measure", "wide_jobs"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure what is asked for and append it to results.jsonl; what is already there is skipped."""

    nets: tuple[str, ...] = tuple(net for net in NETS if net not in FULL_NETS)
    """Networks, named as in config.py."""
    full: bool = False
    """Also the larger networks."""
    wide: bool = False
    """Instead: a few rules on the MLP of width 1024 and Fashion-MNIST, at the rates that width 256 has; 15 minutes."""
    steps: int | None = None
    """Shorter runs of the first round, for a try: they are shown and not appended."""
    num_workers: int = 1
    """Runs at the same time: a process of one thread each."""

    @property
    def tasks(self) -> list[Task]:
        """What is asked for.

        Raises:
            ValueError: there is no such network.
        """
        asked = (*self.nets, *(FULL_NETS if self.full else ()))
        if unknown := sorted(set(asked) - set(NETS)):
            raise ValueError(f"choose nets among {', '.join(NETS)}; found {', '.join(unknown)}.")
        return [task for task in TASKS if task[0] in asked]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    task: Task
    rule: Rule
    rate: float
    seed: int = SEEDS[0]
    part: int = 1
    """It has 1/part of the steps."""
    steps: int | None = None
    """Instead of the network's own number."""

    @property
    def title(self) -> str:
        length = f", 1/{self.part} of the steps" if self.part > 1 else ""
        return f"{', '.join(self.task)}: {self.rule.title}{length}, rate {self.rate:g}, seed {self.seed}"


def _tuned(task: Task, runs: Collection[Run]) -> Iterable[Job]:
    """Full SGD, and two rules that let the top or all learn, without and with rescaling, with every rate."""
    rules = (EVERYTHING, TUNED, TUNED_INVERSE)
    return [Job(task=task, rule=rule, rate=rate) for rule in rules for rate in RATES]


def _screened(task: Task, runs: Collection[Run]) -> Iterable[Job]:
    """The other rules of either kind with its rate, and what is static with full SGD's."""
    best = best_rates(runs)
    like = dict.fromkeys(GRID, TUNED) | dict.fromkeys(INVERSE, TUNED_INVERSE) | dict.fromkeys(STATIC, EVERYTHING)
    return [Job(task=task, rule=rule, rate=best[task, other]) for rule, other in like.items() if rule != other]


def _tuned_finalists(task: Task, runs: Collection[Run]) -> Iterable[Job]:
    rules = dict.fromkeys(finalists(counted(runs), task).values())
    return [Job(task=task, rule=rule, rate=rate) for rule in rules for rate in RATES]


def _seeds(task: Task, runs: Collection[Run]) -> Iterable[Job]:
    own, best = counted(runs), best_rates(runs)
    rules = dict.fromkeys((EVERYTHING, *finalists(own, task).values()))
    return [Job(task=task, rule=rule, rate=best[task, rule], seed=seed) for seed in SEEDS[1:] for rule in rules]


def _shortened(task: Task, runs: Collection[Run]) -> Iterable[Job]:
    rate = best_rates(runs)[task, EVERYTHING]
    return [Job(task=task, rule=EVERYTHING, rate=rate, seed=seed, part=part) for part in SHORTENED for seed in SEEDS]


def _rescaled(task: Task, runs: Collection[Run]) -> Iterable[Job]:
    rules = RESCALED if NETS[task[0]].rescales and task[1] == "fashion" else ()
    return [Job(task=task, rule=rule, rate=rate) for rule in rules for rate in RATES]


def _normalised(task: Task, runs: Collection[Run]) -> Iterable[Job]:
    best = best_rates(runs)
    rules = NORMALISED if NETS[task[0]].normalises else ()
    return [Job(task=task, rule=rule, rate=best[task, rule._replace(batch_norm="follow")]) for rule in rules]


def wide_jobs(runs: Collection[Run]) -> list[Job]:
    """A few rules on the wide network, with every seed and the rates of the next narrower one."""
    best = best_rates(runs)
    narrower = ("mlp 256", WIDE_TASK[1])
    return [
        Job(task=WIDE_TASK, rule=rule, rate=best[narrower, rule], seed=seed) for seed in SEEDS for rule in WIDE_RULES
    ]


ROUNDS: tuple[Callable[[Task, Collection[Run]], Iterable[Job]], ...] = (
    _tuned,
    _screened,
    _tuned_finalists,
    _seeds,
    _shortened,
    _rescaled,
    _normalised,
)
"""What is run of a task, each round built upon the results of those before it."""


def measure(job: Job) -> Run:
    """Carry out one run."""
    config = make_config(job.task, job.rule, rate=job.rate, seed=job.seed, part=job.part, steps=job.steps)
    started_s = time.perf_counter()
    prepared = prepare(config)
    (network,) = prepared.cut.stages
    assert isinstance(network, nn.Sequential)
    full = full_steps(config.participation, network, steps=config.steps, seed=config.seed)
    held_out = test = None
    spent: list[Step] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_threaded(prepared, folder=Path(folder))
        except StageFailure as failure:
            if not isinstance(failure.__cause__, NotFinite):
                raise
        else:
            data = split(job.task[1], NETS[job.task[0]].layout)
            held_out = accuracy(network, data.held_out_x, data.held_out_y)
            test = accuracy(network, data.test_x, data.test_y)
            spent = read_steps(Path(folder), full)
    return Run(
        net=job.task[0],
        data=job.task[1],
        **job.rule._asdict(),
        rate=job.rate,
        seed=job.seed,
        part=job.part,
        steps=config.steps,
        num_full=sum(full),
        held_out_accuracy=held_out,
        test_accuracy=test,
        forward_ms=median_ms(step.forward_ms for step in spent),
        full_backward_ms=median_ms(step.backward_ms for step in spent if step.full),
        other_backward_ms=median_ms(step.backward_ms for step in spent if not step.full),
        update_ms=median_ms(step.update_ms for step in spent),
        wall_s=round(time.perf_counter() - started_s, 2),
        machine=machine(),
    )


def accuracy(network: nn.Module, x: Tensor, target: Tensor) -> float:
    """The fraction of samples whose class the network has right."""
    network.eval()
    with torch.no_grad():
        right = [
            int((network(part).argmax(1) == labels).sum())
            for part, labels in zip(x.split(500), target.split(500), strict=True)
        ]
    return sum(right) / len(x)


def main(options: Options) -> int:
    """Run what is asked for; 1 if any run failed, 2 if the call is wrong."""
    console = Console()
    try:
        tasks = options.tasks
    except ValueError as error:
        console.print(error)
        return 2
    if options.wide:
        return _run_all(_pending(wide_jobs(read_runs()), read_runs(), options), options, console)
    for jobs_of in ROUNDS[:1] if options.steps else ROUNDS:
        runs = read_runs()
        jobs = [job for task in tasks for job in jobs_of(task, runs)]
        if code := _run_all(_pending(jobs, runs, options), options, console):
            return code  # the next round builds upon all of this one
    return 0


def _pending(jobs: Iterable[Job], runs: Iterable[Run], options: Options) -> list[Job]:
    if options.steps:
        return [Job(task=job.task, rule=job.rule, rate=job.rate, steps=options.steps) for job in jobs]
    done = {(run.task, run.rule, run.rate, run.seed, run.part) for run in runs}
    return [job for job in jobs if (job.task, job.rule, job.rate, job.seed, job.part) not in done]


def _run_all(jobs: list[Job], options: Options, console: Console) -> int:
    done = count(1)

    def on_run(run: Run) -> None:
        if options.steps is None:
            append_record(run, FOLDER / "results.jsonl")
        job = Job(task=run.task, rule=run.rule, rate=run.rate, seed=run.seed, part=run.part)
        found = "diverged" if run.test_accuracy is None else f"{100 * run.test_accuracy:.2f} %"
        console.print(f"{next(done)}/{len(jobs)} {job.title}: {found}, {run.wall_s:.1f} s", highlight=False)

    return carry_out(
        jobs,
        _measure,
        name=lambda job: job.title,
        on_result=on_run,
        num_workers=options.num_workers,
        console=console,
    )


def _measure(job: Job) -> Run:
    keep_freed_memory()
    return measure(job)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
