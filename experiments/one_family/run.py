"""How well does a network learn from each source of gradients?

    python -m experiments.one_family.run

Every row with the first seed: on one data set with both rates, on the other with the better one; then the finalists
with the other seeds. Each run is appended to results.jsonl at once; what is there is skipped.
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
from experiments.machine import machine
from experiments.one_family.config import NETS, NUM_EVALUATIONS, RATES, ROWS, SEEDS, TASKS, Task, make_config, split
from experiments.one_family.results import CHOSEN_ON, FOLDER, Run, best_rates, finalists, read_runs
from experiments.one_family.watch import watch
from experiments.records import append_record, read_lines
from pipeline import Config, ConfigurationError, NotFinite, StageFailure, prepare, run_simulated
from pipeline.executors.allocator import keep_freed_memory

__all__ = ["Job", "Options", "error_rate", "final_jobs", "measure", "rate_jobs", "screening_jobs"]

_LOOKS = 40
"""At the gradient in use, at equal distances, once the first of the evaluations' intervals is over."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure what is asked for and append it to results.jsonl; what is already there is skipped."""

    only: tuple[str, ...] = ()
    """Rows, named as in config.py; none: all."""
    nets: tuple[str, ...] = tuple(NETS)
    """Networks."""
    steps: int | None = None
    """Shorter runs with the first seed, for a try: they are shown and not appended."""
    num_workers: int = 1
    """Runs at the same time: a process of one thread each."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    row: str
    task: Task
    rate: float
    seed: int
    steps: int | None = None
    """Instead of the network's own number."""

    def config(self) -> Config:
        """The whole configuration of the run."""
        return make_config(self.row, self.task, rate=self.rate, seed=self.seed, steps=self.steps)


def rate_jobs(options: Options, runs: Iterable[Run]) -> list[Job]:
    """The first seed with every rate, where rates are chosen.

    Raises:
        ValueError: there is no such row or network.
    """
    for kind, asked, known in (("rows", options.only, ROWS), ("nets", options.nets, NETS)):
        if unknown := sorted(set(asked) - set(known)):
            raise ValueError(f"choose {kind} among {', '.join(known)}; found {', '.join(unknown)}.")
    jobs = [
        Job(row=row, task=(net, CHOSEN_ON), rate=rate, seed=SEEDS[0], steps=options.steps)
        for net in options.nets
        for row in options.only or ROWS
        for rate in RATES
    ]
    return jobs if options.steps else _pending(jobs, runs)


def screening_jobs(options: Options, runs: Collection[Run]) -> list[Job]:
    """The first seed on the other data, with the rate that was chosen."""
    jobs = [
        Job(row=row, task=(net, data), rate=rate, seed=SEEDS[0])
        for (row, net), rate in best_rates(runs).items()
        for other, data in TASKS
        if other == net and data != CHOSEN_ON and net in options.nets and row in (options.only or ROWS)
    ]
    return [] if options.steps else _pending(jobs, runs)


def final_jobs(options: Options, runs: Collection[Run]) -> list[Job]:
    """The other seeds of the finalists."""
    best = best_rates(runs)
    jobs = [
        Job(row=row, task=task, rate=best[row, task[0]], seed=seed)
        for seed in SEEDS[1:]
        for task in TASKS
        for row in finalists(runs)
        if task[0] in options.nets and row in (options.only or ROWS)
    ]
    return [] if options.steps else _pending(jobs, runs)


def measure(job: Job) -> Run:
    """Carry out one run."""
    config = job.config()
    refused, errors = None, (None, None)
    probes: dict[str, tuple[float, ...]] = {}
    used = None
    started_s = time.perf_counter()
    try:
        prepared = prepare(config)
        first = config.steps // NUM_EVALUATIONS
        every = max(1, (config.steps - first) // _LOOKS)
        prepared, watched = watch(prepared, NETS[job.task[0]].make(), first=first, every=every)
        with tempfile.TemporaryDirectory() as folder:
            result = run_simulated(prepared, folder=Path(folder))
            probes = _probes(Path(folder))
        used = sum(watched.cosines) / len(watched.cosines) if watched else None
        data = split(job.task)
        stages = result.cut.stages
        errors = (
            error_rate(stages, data.held_out_x, data.held_out_y),
            error_rate(stages, data.test_x, data.test_y),
        )
    except ConfigurationError as error:
        refused = str(error)
    except StageFailure as failure:
        if not isinstance(failure.__cause__, NotFinite):
            raise
    return Run(
        row=job.row,
        net=job.task[0],
        data=job.task[1],
        rate=job.rate,
        seed=job.seed,
        steps=config.steps,
        refused=refused,
        held_out_error=errors[0],
        test_error=errors[1],
        probe_cosines=probes.get("cosine", ()),
        probe_weight_cosines=probes.get("parameter_cosine", ()),
        used_cosine=used,
        wall_s=round(time.perf_counter() - started_s, 2),
        machine=machine(),
    )


def error_rate(stages: Iterable[nn.Module], x: Tensor, target: Tensor) -> float:
    """The fraction of samples whose class the network has wrong."""
    network = nn.Sequential(*stages).eval()
    with torch.no_grad():
        wrong = sum(
            int((network(part).argmax(1) != labels).sum())
            for part, labels in zip(x.split(1000), target.split(1000), strict=True)
        )
    return wrong / len(x)


def main(options: Options) -> int:
    """Run what is asked for; 1 if any run failed, 2 if the call is wrong."""
    console = Console()
    rounds: tuple[Callable[[Options, list[Run]], list[Job]], ...] = (rate_jobs, screening_jobs, final_jobs)
    try:
        for jobs in rounds:
            if code := _run_all(jobs(options, read_runs()), options, console):
                return code  # the next round builds upon all of this one
    except ValueError as error:
        console.print(error)
        return 2
    return 0


def _run_all(jobs: list[Job], options: Options, console: Console) -> int:
    done = count(1)

    def on_run(run: Run) -> None:
        if options.steps is None:
            append_record(run, FOLDER / "results.jsonl")
        console.print(f"{next(done)}/{len(jobs)} {_described(run)}", highlight=False, soft_wrap=True)

    return carry_out(
        jobs,
        _measure,
        name=lambda job: f"{job.row}, {', '.join(job.task)}, rate {job.rate:g}, seed {job.seed}",
        on_result=on_run,
        num_workers=options.num_workers,
        console=console,
    )


def _measure(job: Job) -> Run:
    keep_freed_memory()
    return measure(job)


def _described(run: Run) -> str:
    errors = ["none" if error is None else f"{100 * error:.2f} %" for error in (run.held_out_error, run.test_error)]
    probe = run.probe_cosines[-1] if run.probe_cosines else None
    cosines = ["none" if cosine is None else f"{cosine:.2f}" for cosine in (probe, run.used_cosine)]
    return (
        f"{run.row}, {run.net}, {run.data}, rate {run.rate:g}, seed {run.seed}: error held out {errors[0]}, test "
        f"{errors[1]}; cosine at the last probe {cosines[0]}, in use {cosines[1]}; {run.wall_s:.1f} s"
        + (f"; refused: {run.refused}" if run.refused else "")
    )


def _pending(jobs: Iterable[Job], runs: Iterable[Run]) -> list[Job]:
    done = {(run.row, run.task, run.rate, run.seed) for run in runs}
    return [job for job in jobs if (job.row, job.task, job.rate, job.seed) not in done]


def _probes(folder: Path) -> dict[str, tuple[float, ...]]:
    """Of the stage at the bottom, in the order of the evaluations, by the name of the measure."""
    found: dict[str, tuple[float, ...]] = {}
    for line in read_lines(folder / "metrics" / "stage-0.jsonl"):
        for name in ("cosine", "parameter_cosine"):
            if (value := line.get(f"probe_{name}")) is not None:
                found[name] = (*found.get(name, ()), value)
    return found


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
