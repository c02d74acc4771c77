"""How is everything measured? A network at a time, each appended to results.jsonl; what is there is skipped.

python -m experiments.czarnecki2017_understanding.run --num-workers 2
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import tyro
from rich.console import Console

from experiments.czarnecki2017_understanding.config import Job, all_jobs
from experiments.czarnecki2017_understanding.measures import measure
from experiments.czarnecki2017_understanding.results import RESULTS, Runs, read_runs
from experiments.jobs import carry_out
from experiments.machine import machine
from experiments.records import append_line

__all__ = ["Options", "line_of", "main", "pending_jobs"]


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
    started_s = time.perf_counter()
    measured = measure(job)
    return {
        "row": job.name,
        "seed": job.seed,
        **measured,
        "all_s": round(time.perf_counter() - started_s, 2),
        "machine": machine(),
    }


def main(options: Options) -> int:
    """Run what is asked for; 1 if any run failed, 2 if the call is wrong."""
    console = Console()
    try:
        jobs = pending_jobs(options, read_runs())
    except ValueError as error:
        console.print(error)
        return 2

    def on_line(line: dict[str, Any]) -> None:
        append_line(line, RESULTS)
        console.print(
            f"{line['row']}, seed {line['seed']}: loss {line['test_loss']:.4f}, {line['all_s']:.1f} s", highlight=False
        )

    code = carry_out(
        jobs,
        line_of,
        name=lambda job: f"{job.name}, seed {job.seed}",
        on_result=on_line,
        num_workers=options.num_workers,
        console=console,
    )
    console.print(f"{len(jobs)} runs; results in {RESULTS.name}, then: table.py")
    return code


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
