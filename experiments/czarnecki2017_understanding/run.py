"""How is everything measured? A network at a time, each appended to results.jsonl; what is there is skipped.

python -m experiments.czarnecki2017_understanding.run --num-workers 2
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.czarnecki2017_understanding.config import Job, all_jobs
from experiments.czarnecki2017_understanding.measures import measure
from experiments.czarnecki2017_understanding.results import RESULTS, Runs, append_run, read_runs
from experiments.machine import machine

__all__ = ["Options", "line_of", "main", "pending_jobs", "run_all"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train the networks and append what is measured to results.jsonl; what is already there is skipped."""

    only: tuple[str, ...] = ()
    """Beginnings of the rows to measure, as `toy`, `toy blobs`, `deep`, `small`; none: all."""
    full: bool = False
    """Also two more seeds of the artificial sets."""
    num_workers: int = 1
    """Runs at the same time: a process of one thread each."""


def pending_jobs(options: Options, runs: Runs) -> list[Job]:
    """What is asked for and was not measured before.

    Raises:
        ValueError: no row begins so.
    """
    jobs = all_jobs(full=options.full)
    for beginning in options.only:
        if not any(job.name.startswith(beginning) for job in jobs):
            names = ", ".join(dict.fromkeys(job.name for job in jobs))
            raise ValueError(f"only must name beginnings of rows, found {beginning!r}; the rows are {names}.")
    asked = [job for job in jobs if job.name.startswith(options.only or "")]
    return [job for job in asked if job.seed not in runs.get(job.name, {})]


def line_of(job: Job) -> dict[str, Any]:
    """One run, as a line of results.jsonl."""
    torch.set_num_threads(1)
    started_s = time.perf_counter()
    measured = measure(job)
    return {
        "row": job.name,
        "seed": job.seed,
        **measured,
        "all_s": round(time.perf_counter() - started_s, 2),
        "machine": machine(),
    }


def run_all(
    jobs: Sequence[Job], *, num_workers: int, on_line: Callable[[dict[str, Any]], None], console: Console
) -> list[str]:
    """Measure jobs in processes of their own, and show how far they are; returns the failures in words."""
    failures = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress,
        ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        bar = progress.add_task("runs", total=len(jobs))
        futures = {pool.submit(line_of, job): job for job in jobs}
        for future in as_completed(futures):
            error = future.exception()
            if error is None:
                on_line(future.result())
            else:
                job = futures[future]
                failures.append(f"{job.name}, seed {job.seed}: {type(error).__name__}: {error}")
            progress.advance(bar)
    return failures


def main(options: Options) -> int:
    """Run what is asked for; 1 if any run failed, 2 if the call is wrong."""
    console = Console()
    try:
        jobs = pending_jobs(options, read_runs())
    except ValueError as error:
        console.print(error)
        return 2

    def on_line(line: dict[str, Any]) -> None:
        append_run(line)
        console.print(
            f"{line['row']}, seed {line['seed']}: loss {line['test_loss']:.4f}, {line['all_s']:.1f} s", highlight=False
        )

    failures = run_all(jobs, num_workers=options.num_workers, on_line=on_line, console=console) if jobs else []
    console.print(*failures, f"{len(jobs)} runs; results in {RESULTS.name}, then: table.py", sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
