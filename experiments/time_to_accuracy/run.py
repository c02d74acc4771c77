"""How long does each way of training take to an accuracy?

`python -m experiments.time_to_accuracy.run` starts four ranks once; they carry out run after run, so that torch is
imported once and the rows take turns: a drift of the machine hits all of them. Loops of one process run on rank 0
while the others block. Every run is appended to results.jsonl at once; after an interruption the same command goes on.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import get_args

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.machine import machine
from experiments.records import append_record
from experiments.time_to_accuracy.alone import train_alone
from experiments.time_to_accuracy.config import NUM_STAGES, ROWS, TASKS, Family
from experiments.time_to_accuracy.curve import Point, read_curve
from experiments.time_to_accuracy.results import RESULTS, Run, fastest, newest, read_runs
from pipeline import Config, prepare
from pipeline.executors.agreement import prepare_together
from pipeline.executors.distributed import run_rank
from pipeline.records.folder import commit
from pipeline.transports.control import Control, World, world_from_environment

__all__ = ["Job", "Measured", "Options", "carry_out", "pending_jobs", "race"]

_FOREVER = timedelta(days=7)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure rows and append them to results.jsonl; what was measured at this commit is skipped.

    For example: python -m experiments.time_to_accuracy.run --only gpipe cdni --data mnist --seeds 0 1
    """

    only: tuple[str, ...] = ()
    """Rows, named as in config.py; none: all."""
    finalists: bool = False
    """Instead: the fastest row of each family so far, for each data set."""
    data: tuple[str, ...] = tuple(TASKS)
    """Data sets: mnist, fashion."""
    seeds: tuple[int, ...] = (0, 1, 2)
    again: bool = False
    """Measure also what was measured at this commit."""
    held_out: bool = False
    """For a try: evaluate on held-out training samples; shown and not appended."""
    samples: int | None = None
    """For a try: samples of each run, a multiple of 256; shown and not appended."""

    @property
    def is_try(self) -> bool:
        """Whether nothing is to be appended."""
        return self.held_out or self.samples is not None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One task, one row, one seed."""

    task: str
    row: str
    seed: int
    held_out: bool = False
    samples: int | None = None

    def config(self) -> Config:
        """The whole configuration of the run."""
        row = ROWS[self.row]
        config = row.config(replace(TASKS[self.task], held_out=self.held_out))
        steps = config.steps if self.samples is None else self.samples // row.batch_size
        return replace(config, seed=self.seed, steps=steps)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run has given."""

    points: tuple[Point, ...]
    wall_s: float
    cpu_s: float
    """Of all processes."""


def pending_jobs(options: Options, runs: Sequence[Run], *, at_commit: str | None) -> list[Job]:
    """What is asked for and was not measured at this commit: seed by seed, the rows in an order drawn for each.

    Raises:
        ValueError: there is no such row or data set.
    """
    for given, known in ((options.only, ROWS), (options.data, TASKS)):
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"choose among {', '.join(known)}; found {', '.join(unknown)}.")
    done = {(run.task, run.row, run.seed) for run in runs if run.machine["commit"] == at_commit}
    jobs = []
    for seed in options.seeds:
        for task in options.data:
            rows = _rows(options, runs, task)
            random.Random(f"{seed} {task}").shuffle(rows)
            jobs += [(task, row, seed) for row in rows]
    return [
        Job(task=task, row=row, seed=seed, held_out=options.held_out, samples=options.samples)
        for task, row, seed in jobs
        if options.again or options.is_try or (task, row, seed) not in done
    ]


def race(world: World, options: Options) -> None:
    """On one rank: carry out all runs together with the others; rank 0 records them."""
    control = Control(world)
    console = Console(quiet=world.rank != 0)
    if world.rank == 0:
        control.put("jobs", [asdict(job) for job in pending_jobs(options, read_runs(), at_commit=commit())])
    jobs = [Job(**job) for job in control.gather(["jobs"])[0]]
    with _progress(console) as progress:
        every = progress.add_task("runs", total=len(jobs))
        for number, job in enumerate(jobs):
            load = os.getloadavg()[0]
            with _bar(progress, job) as on_step:
                measured = carry_out(
                    replace(world, prefix=f"{world.prefix}/{number}", hosts_store=False), job, on_step=on_step
                )
            progress.advance(every)
            if measured is not None:
                run = Run(
                    task=job.task,
                    row=job.row,
                    seed=job.seed,
                    **vars(measured),
                    load_before=round(load, 1),
                    machine=machine(),
                )
                console.print(_line(run), highlight=False, soft_wrap=True)
                if not options.is_try:
                    append_record(run, RESULTS)
    control.close()


def carry_out(world: World, job: Job, *, on_step: Callable[[int], None] = lambda step: None) -> Measured | None:
    """One run, of all ranks or of rank 0 alone.

    Args:
        world: with a prefix of the run's own.
        job: the run, the same on every rank.
        on_step: hears on rank 0 how far it is.

    Returns:
        What was measured on rank 0, None on the others.
    """
    if ROWS[job.row].family == "one process":
        return _carry_out_alone(world, job, on_step)
    return _carry_out_in_stages(world, job, on_step)


def _carry_out_alone(world: World, job: Job, on_step: Callable[[int], None]) -> Measured | None:
    control = Control(world)
    if world.rank != 0:
        control.client().wait(["done"], _FOREVER)  # asking again and again would cost rank 0 time
        return None
    prepared = prepare(job.config())
    started_s, cpu_s = time.perf_counter(), time.process_time()
    points = train_alone(prepared, batch_size=ROWS[job.row].batch_size, on_step=on_step)
    measured = Measured(points=tuple(points), wall_s=time.perf_counter() - started_s, cpu_s=time.process_time() - cpu_s)
    control.put("done", True)
    return measured


def _carry_out_in_stages(world: World, job: Job, on_step: Callable[[int], None]) -> Measured | None:
    control, beside = Control(world), Control(replace(world, prefix=f"{world.prefix}/beside"))
    prepared = prepare_together(job.config(), control)
    with ExitStack() as stack:
        if world.rank == 0:
            beside.put("folder", stack.enter_context(tempfile.TemporaryDirectory()))
        folder = Path(beside.gather(["folder"])[0])
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        run_rank(prepared, control, folder=folder, on_status=lambda statuses: on_step(min(s.step for s in statuses)))
        wall_s = time.perf_counter() - started_s
        beside.put(f"cpu/{world.rank}", time.process_time() - started_cpu_s)
        if world.rank != 0:
            return None
        points = read_curve(folder, num_stages=NUM_STAGES, batch_size=ROWS[job.row].batch_size)
    cpu_s = sum(beside.gather([f"cpu/{rank}" for rank in range(world.world_size)]))
    return Measured(points=tuple(points), wall_s=wall_s, cpu_s=cpu_s)


def main(options: Options) -> int:
    """Start the ranks, or be one of them."""
    world = world_from_environment()
    if world is not None:
        race(world, options)
        return 0
    try:
        jobs = pending_jobs(options, read_runs(), at_commit=commit())
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(jobs)} runs")
    if not jobs:
        return 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={NUM_STAGES}"]
    command = [*launcher, "-m", "experiments.time_to_accuracy.run", *sys.argv[1:]]
    return subprocess.run(command, env={"OMP_NUM_THREADS": "1", **os.environ}, check=False).returncode


def _rows(options: Options, runs: Sequence[Run], task: str) -> list[str]:
    if options.finalists:
        found = (fastest(newest(runs), task, family) for family in get_args(Family))
        return [row for row in found if row is not None and row in (options.only or ROWS)]
    return list(options.only or ROWS)


def _line(run: Run) -> str:
    point = run.reached(TASKS[run.task].target)
    reached = "never" if point is None else f"after {point.train_s:.1f} s, {point.samples} samples"
    last = run.points[-1]
    return (
        f"{run.task} {run.row} seed {run.seed}: {100 * TASKS[run.task].target:g} % {reached}; "
        f"{100 * last.accuracy:.1f} % after {last.train_s:.1f} s; wall {run.wall_s:.0f} s, CPU {run.cpu_s:.0f} s"
    )


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Drawn when something is said, not from a thread of its own beside the measurement.
    return Progress(*columns, console=console, auto_refresh=False)


@contextmanager
def _bar(progress: Progress, job: Job) -> Iterator[Callable[[int], None]]:
    """A line for a run while it goes on."""
    bar = progress.add_task(f"{job.task} {job.row} seed {job.seed}", total=job.config().steps)

    def on_step(step: int) -> None:
        progress.update(bar, completed=step)
        progress.refresh()

    try:
        yield on_step
    finally:
        progress.remove_task(bar)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
