"""How accurate is a network that learned from late gradients, and what did that keep in memory?

    python -m experiments.delayed_gradients.run --num-workers 2

Runs every method at every staleness: the first seed with all rates, the others with the best. Each run is appended to
results.jsonl at once; what is there is skipped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import count

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from experiments.delayed_gradients.config import METHODS, RATES, STALENESS, STEPS, split
from experiments.delayed_gradients.results import RESULTS, Run, best_rates
from experiments.jobs import carry_out
from experiments.machine import machine
from experiments.records import append_record, read_records
from pipeline import Config, StageFailure, prepare, run_simulated
from pipeline.configuration.prepared import Prepared
from pipeline.errors import NotFinite
from pipeline.virtual_time.analysis import held_bytes
from pipeline.virtual_time.rehearsal import rehearse

__all__ = ["Job", "Options", "accuracy", "first_jobs", "further_jobs", "measure"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure what is asked for and append it to results.jsonl; what is already there is skipped."""

    only: tuple[str, ...] = ()
    """Methods, named as in config.py; none: all."""
    staleness: tuple[int, ...] = STALENESS
    """In updates."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The first is run with every rate, the others with the best one."""
    steps: int | None = None
    """Shorter runs, of the first seed, for a try: they are shown and not appended."""
    num_workers: int = 1
    """Runs at the same time: a process of one thread each."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    method: str
    staleness: int
    rate: float
    seed: int
    steps: int = STEPS

    def config(self) -> Config:
        """The whole configuration of the run."""
        return METHODS[self.method].config(staleness=self.staleness, rate=self.rate, seed=self.seed, steps=self.steps)


def first_jobs(options: Options, runs: Iterable[Run]) -> list[Job]:
    """The first seed, with every rate.

    Raises:
        ValueError: there is no such method.
    """
    if unknown := sorted(set(options.only) - set(METHODS)):
        raise ValueError(f"choose among {', '.join(METHODS)}; found {', '.join(unknown)}.")
    jobs = [
        Job(method=name, staleness=late, rate=rate, seed=options.seeds[0], steps=options.steps or STEPS)
        for name in options.only or METHODS
        for late in (options.staleness if METHODS[name].late else (0,))
        for rate in RATES
    ]
    return _pending(jobs, () if options.steps else runs)


def further_jobs(options: Options, runs: Collection[Run]) -> list[Job]:
    """The other seeds, with the best rate of the first."""
    best = best_rates(runs, seed=options.seeds[0])
    asked = {(job.method, job.staleness) for job in first_jobs(options, ())}
    jobs = [
        Job(method=method, staleness=late, rate=rate, seed=seed)
        for seed in options.seeds[1:]
        for (method, late), rate in best.items()
        if (method, late) in asked
    ]
    return [] if options.steps else _pending(jobs, runs)


def measure(job: Job) -> Run:
    """Carry out one run."""
    prepared = prepare(job.config())
    kept = _held_bytes(prepared)
    started_s = time.perf_counter()
    held_out = test = late = None
    try:
        result = run_simulated(prepared)
    except StageFailure as failure:
        if not isinstance(failure.__cause__, NotFinite):
            raise
    else:
        data = split()
        held_out = accuracy(result.cut.stages, data.held_out_x, data.held_out_y)
        test = accuracy(result.cut.stages, data.test_x, data.test_y)
        late = result.summary["stages"][0]["staleness_mean"]
    return Run(
        method=job.method,
        staleness=job.staleness,
        rate=job.rate,
        seed=job.seed,
        steps=job.steps,
        held_out_accuracy=held_out,
        test_accuracy=test,
        staleness_mean=late,
        held_bytes=kept,
        parameter_bytes=sum(plan.parameter_bytes for plan in prepared.plans),
        wall_s=round(time.perf_counter() - started_s, 2),
        machine=machine(),
    )


def accuracy(stages: Iterable[nn.Module], x: Tensor, target: Tensor) -> float:
    """The fraction of samples whose class the network has right."""
    with torch.no_grad():
        for stage in stages:
            x = stage.eval()(x)
    return (x.argmax(1) == target).double().mean().item()


def main(options: Options) -> int:
    """Run what is asked for; 1 if any run failed, 2 if the call is wrong."""
    console = Console()
    try:
        jobs = first_jobs(options, read_records(Run, RESULTS))
    except ValueError as error:
        console.print(error)
        return 2
    if code := _run_all(jobs, options, console):
        return code  # a rate that failed could be the best
    return _run_all(further_jobs(options, read_records(Run, RESULTS)), options, console)


def _run_all(jobs: list[Job], options: Options, console: Console) -> int:
    done = count(1)

    def on_run(run: Run) -> None:
        if options.steps is None:
            append_record(run, RESULTS)
        found = "diverged" if run.test_accuracy is None else f"{100 * run.test_accuracy:.2f} %"
        console.print(
            f"{next(done)}/{len(jobs)} {run.method}, staleness {run.staleness}, rate {run.rate:g}, seed {run.seed}: "
            f"{found}, {run.wall_s:.1f} s",
            highlight=False,
        )

    return carry_out(
        jobs,
        measure,
        name=lambda job: f"{job.method}, staleness {job.staleness}, rate {job.rate:g}, seed {job.seed}",
        on_result=on_run,
        num_workers=options.num_workers,
        console=console,
    )


def _pending(jobs: Iterable[Job], runs: Iterable[Run]) -> list[Job]:
    done = {(run.method, run.staleness, run.rate, run.seed) for run in runs}
    return [job for job in jobs if (job.method, job.staleness, job.rate, job.seed) not in done]


def _held_bytes(prepared: Prepared) -> int:
    """Counted from what the graph of one microbatch saves, in the stages played without mathematics."""
    short = replace(prepared, config=replace(prepared.config, steps=50))
    return int(held_bytes(short, rehearse(short, way="stages").timing).sum())


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
