"""How well does a network learn whose layers, or quarters of layers, have cadences of their own?

    python -m experiments.cadence_study.run [--num-workers 2]

Chooses rules and rates with one seed on held-out samples, then runs the finalists with five others. Each run is
appended to results.jsonl at once; what is there is skipped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import count

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from experiments.cadence_study.arms import block_sizes
from experiments.cadence_study.config import RATES, SCREENING_SEED, make_config, shapes_of, split
from experiments.cadence_study.plan import FULL, ROUNDS, Job, full_jobs
from experiments.cadence_study.results import FOLDER, BlockUpdates, Run, read_runs, screened
from experiments.jobs import carry_out
from experiments.machine import machine
from experiments.records import append_record
from pipeline import NotFinite, Result, StageFailure, prepare, run_simulated
from pipeline.executors.allocator import keep_freed_memory

__all__ = ["Options", "at_the_edge", "measure"]

_NUM_FOR_LOSS = 2000
"""The training samples on which the loss is taken after training."""
_PART = 1000
"""Samples that are evaluated at a time."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure everything and append it to results.jsonl; what is already there is skipped."""

    num_workers: int = 1
    """Runs at the same time: a process of one thread each."""
    full: bool = False
    """Also the finalists at the larger size: days on one core."""


def measure(job: Job) -> Run:
    """Carry out one run. Only finals see the test samples, and only the screening those held out."""
    started_s = time.perf_counter()
    config = make_config(
        job.arm,
        job.task,
        optimizer=job.optimizer,
        rule=job.rule,
        rate=job.rate,
        seed=job.seed,
        steps=job.steps,
        size=job.size,
    )
    held_out = test = loss = None
    blocks: dict[str, BlockUpdates] = {}
    try:
        result = run_simulated(prepare(config))
    except StageFailure as failure:
        if not isinstance(failure.__cause__, NotFinite):
            raise
    else:
        (stage,), data = result.cut.stages, split(job.task.data, job.size)
        if job.seed == SCREENING_SEED:
            held_out = accuracy(stage, data.held_out_x, data.held_out_y)
        else:
            test = accuracy(stage, data.test_x, data.test_y)
        x, target = data.train_x[:_NUM_FOR_LOSS], data.train_y[:_NUM_FOR_LOSS]
        loss = nn.functional.cross_entropy(_outputs(stage, x), target).item()
        blocks = _blocks(job, result)
    return Run(
        size=job.size,
        comparison=job.comparison,
        net=job.task.net,
        data=job.task.data,
        optimizer=job.optimizer,
        arm=job.arm,
        rule=job.rule,
        rate=job.rate,
        seed=job.seed,
        steps=job.steps,
        diverged=not blocks,
        held_out_accuracy=held_out,
        test_accuracy=test,
        train_loss=loss,
        blocks=blocks,
        wall_s=round(time.perf_counter() - started_s, 2),
        machine=machine(),
    )


def accuracy(module: nn.Module, x: Tensor, target: Tensor) -> float:
    """The fraction of samples whose class the network has right."""
    return (_outputs(module, x).argmax(1) == target).double().mean().item()


def at_the_edge(runs: Collection[Run]) -> list[str]:
    """The cells whose best rate is the lowest or the highest that was tried, in words."""
    return [
        f"{cell.comparison}, {cell.task.title}, {cell.optimizer}, {cell.arm}: the best rate is {rate:g}, at the edge"
        for cell, run in screened(runs).items()
        if (rate := run.rate) in (min(RATES[cell.optimizer]), max(RATES[cell.optimizer]))
    ]


def main(options: Options) -> int:
    """Run everything, round after round; 1 if any run failed."""
    console = Console()
    for name, jobs in (*ROUNDS.items(), *([(FULL, full_jobs)] if options.full else [])):
        if code := _run_all(name, jobs(read_runs()), options, console):
            return code  # the next round builds upon all of this one
    for line in at_the_edge(read_runs()):
        console.print(f"warning: {line}", highlight=False, soft_wrap=True)
    return 0


def _run_all(name: str, jobs: list[Job], options: Options, console: Console) -> int:
    todo, done = _pending(jobs, read_runs()), count(1)
    console.print(f"{name}: {len(todo)} of {len(jobs)} runs are to be made", highlight=False)

    def on_run(run: Run) -> None:
        append_record(run, FOLDER / "results.jsonl")
        console.print(f"{next(done)}/{len(todo)} {_described(run)}", highlight=False, soft_wrap=True)

    return carry_out(todo, _measure, name=str, on_result=on_run, num_workers=options.num_workers, console=console)


def _pending(jobs: Iterable[Job], runs: Iterable[Run]) -> list[Job]:
    done = {_key(run) for run in runs}
    return [job for job in jobs if _key(job) not in done]


def _key(job: Job | Run) -> tuple[object, ...]:
    """How many steps it takes follows from the rest."""
    return job.size, job.comparison, job.task, job.optimizer, job.arm, job.rule, job.rate, job.seed


def _measure(job: Job) -> Run:
    keep_freed_memory()
    return measure(job)


def _described(run: Run) -> str:
    found = run.held_out_accuracy if run.seed == SCREENING_SEED else run.test_accuracy
    on = "held out" if run.seed == SCREENING_SEED else "test"
    return (
        f"{run.task.title}, {run.optimizer}, {run.arm}, {run.rule}, rate {run.rate:g}, seed {run.seed}: "
        + ("diverged" if found is None else f"{100 * found:.2f} % {on}, {run.updates_per_parameter:.0f} updates")
        + f" in {run.steps} steps, {run.wall_s:.1f} s"
    )


def _outputs(module: nn.Module, x: Tensor) -> Tensor:
    module.eval()
    with torch.no_grad():
        return torch.cat([module(part) for part in x.split(_PART)])


def _blocks(job: Job, result: Result) -> dict[str, BlockUpdates]:
    """What each block did; a network that is one block is counted by its stage."""
    (stage,) = result.summary["stages"]
    found = stage["blocks"] or {"rest": {"updates": stage["updates"], "length_mean": None, "noise_scale": None}}
    sizes = block_sizes(job.arm, shapes_of(job.task, job.size), job.steps)
    return {
        name: BlockUpdates(
            parameters=size,
            updates=found[name]["updates"],
            length=found[name]["length_mean"] or job.steps / found[name]["updates"],
            noise_scale=found[name]["noise_scale"],
        )
        for name, size in sizes.items()
    }


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
