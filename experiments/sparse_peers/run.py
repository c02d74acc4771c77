"""How accurate is a network with each of the rules, how much of it learned, and how much state did the optimiser keep?

    python -m experiments.sparse_peers.run [--num-workers 2]

One rule after the other on one task after the other: its rate is chosen, then it is run with the other seeds. So a part
of it gives whole lines of the tables. Each run is appended to results.jsonl at once; what is there is skipped.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from experiments.jobs import Tell, carry_out_in_parts
from experiments.machine import machine
from experiments.records import append_record
from experiments.sparse_peers.config import CELLS, LARGE, SEEDS, Cell, course_of, make_config, split
from experiments.sparse_peers.results import FOLDER, Run, at_the_edge, choose, pending, read_runs
from experiments.sparse_peers.rules import Course, shares
from experiments.sparse_peers.state_size import Watched
from pipeline import NotFinite, StageFailure, prepare, run_simulated
from pipeline.executors.allocator import keep_freed_memory

__all__ = ["Job", "Options", "main", "measure", "work"]

_PART = 500
"""Samples that are evaluated at a time."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure everything and append it to results.jsonl; what is already there is skipped."""

    num_workers: int = 1
    """Rules at the same time: a process of one thread each."""
    full: bool = False
    """Also the larger networks: about ten hours of one core."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A rule on a task, with what is known of it."""

    cell: Cell
    runs: tuple[Run, ...]


def measure(cell: Cell, *, rate: float, seed: int, course: Course | None = None) -> Run:
    """Carry out one run.

    Args:
        cell: the rule, and where it is run.
        rate: at the first step.
        seed: held-out samples are looked at with the first of SEEDS only.
        course: instead of the size's own.
    """
    started_s = time.perf_counter()
    course = course or course_of(cell.task.net, cell.size)
    config = make_config(cell, rate=rate, seed=seed, course=course)
    assert not isinstance(config.optimizer, tuple)
    watched = Watched(config.optimizer)
    held_out = test = None
    try:
        result = run_simulated(prepare(replace(config, optimizer=watched)))
    except StageFailure as failure:
        if not isinstance(failure.__cause__, NotFinite):
            raise
    else:
        (stage,), data = result.cut.stages, split(cell.task.data, cell.size)
        if seed == SEEDS[0]:
            held_out = _accuracy(stage, data.held_out_x, data.held_out_y)
        test = _accuracy(stage, data.test_x, data.test_y)
    return Run(
        size=cell.size,
        net=cell.task.net,
        data=cell.task.data,
        optimizer=cell.optimizer,
        rule=cell.rule,
        rate=rate,
        seed=seed,
        steps=course.steps,
        learned=round(shares(config.participation, seed=seed, stop=course.steps).learned, 4),
        state_bytes=watched.most_bytes,
        held_out_accuracy=held_out,
        test_accuracy=test,
        wall_s=round(time.perf_counter() - started_s, 2),
        machine=machine(),
    )


def work(job: Job, tell: Tell) -> None:
    """Choose a rule's rate and run it with all seeds, telling every run."""
    keep_freed_memory()
    runs = list(job.runs)
    while todo := pending(job.cell, runs):
        for rate, seed in todo:
            runs.append(measure(job.cell, rate=rate, seed=seed))
            tell(runs[-1])
    tell(1)


def main(options: Options) -> int:
    """Run everything that has not been; 1 if any run failed."""
    console, runs = Console(), read_runs()
    cells = [cell for cell in CELLS if options.full or cell.size != LARGE]
    known = {cell: tuple(run for run in runs if run.cell == cell) for cell in cells}
    jobs = [Job(cell=cell, runs=own) for cell, own in known.items() if pending(cell, own)]

    def on_run(run: Run) -> None:
        append_record(run, FOLDER / "results.jsonl")
        found = "diverged" if run.test_accuracy is None else f"{100 * run.test_accuracy:.2f} %"
        text = f"{run.cell.title}, rate {run.rate:g}, seed {run.seed}: {found}, {run.wall_s:.1f} s"
        console.print(text, highlight=False, soft_wrap=True)

    code = carry_out_in_parts(
        jobs,
        work,
        parts="rules",
        num_parts=len(jobs),
        name=lambda job: job.cell.title,
        on_result=on_run,
        num_workers=options.num_workers,
        console=console,
    )
    runs = read_runs()
    for cell in cells:
        if (rate := choose(cell, runs)) is not None and at_the_edge(cell, rate):
            console.print(f"warning: {cell.title}: rate {rate:g} is at the edge of its grid", highlight=False)
    return code


def _accuracy(module: nn.Module, x: Tensor, target: Tensor) -> float:
    """The fraction of samples whose class the network has right."""
    module.eval()
    with torch.no_grad():
        outputs = torch.cat([module(part) for part in x.split(_PART)])
    return (outputs.argmax(1) == target).double().mean().item()


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
