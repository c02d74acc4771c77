"""How well does a network learn that is pruned, shocked, grown, rewired, or given wider kernels while it trains?

    python -m experiments.changing_structure.run --num-workers 2
    python -m experiments.changing_structure.run --families prune grow      # these questions only
    python -m experiments.changing_structure.run --limit 2 --families prune # a try: two steps of each run, not kept

Chooses rates and finalists with one seed on held-out samples, then runs the finalists with three others. Each run is
appended to results.jsonl at once; what is there is skipped.
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

from experiments.changing_structure.arms import ARMS, FAMILIES
from experiments.changing_structure.config import SCREENING_SEED, make_config
from experiments.changing_structure.flops import spent
from experiments.changing_structure.plan import FULL, ROUNDS, Job, full_jobs, rate_jobs, site_of
from experiments.changing_structure.results import FOLDER, Run, read_runs
from experiments.changing_structure.sites import split
from experiments.jobs import carry_out
from experiments.machine import machine
from experiments.records import append_record
from pipeline import NotFinite, Result, StageFailure, prepare, run_simulated
from pipeline.executors.allocator import keep_freed_memory

__all__ = ["Options", "main", "measure"]

_NUM_FOR_LOSS = 2000
"""The training samples on which the loss is taken after training."""
_PART = 1000
"""Samples that are evaluated at a time."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure everything and append it to results.jsonl; what is already there is skipped.

    Examples:
        python -m experiments.changing_structure.run --num-workers 2
        python -m experiments.changing_structure.run --families prune grow
        python -m experiments.changing_structure.run --limit 2 --families prune
    """

    families: tuple[str, ...] = tuple(FAMILIES)
    """Questions: prune, grow, sparse, shock, kernels. The decoupled rows need all but sparse and kernels."""
    num_workers: int = 1
    """Runs at the same time: a process of one thread each."""
    full: bool = False
    """Also the finalists at the larger size: days on one core."""
    limit: int = 0
    """For a try: every arm once, with so many steps; nothing is kept. 0: the whole plan."""


def measure(job: Job) -> Run:
    """Carry out one run. Only finals see the test samples, and only the screening those held out."""
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    cell, site = job.cell, site_of(job.cell)
    config = make_config(cell.arm, site, rate=job.rate, seed=job.seed, source=cell.source)
    prepared = prepare(config)
    forward, sample = spent(prepared)
    if job.limit:
        prepared = replace(prepared, config=replace(config, steps=job.limit))
    held_out = test = loss = None
    num_parameters, changes = 0, {}
    try:
        result = run_simulated(prepared)
    except StageFailure as failure:
        if not isinstance(failure.__cause__, NotFinite):
            raise
    else:
        network, data = nn.Sequential(*result.cut.stages), split(cell.task.data, cell.size)
        if job.seed == SCREENING_SEED:
            held_out = accuracy(network, data.held_out_x, data.held_out_y)
        else:
            test = accuracy(network, data.test_x, data.test_y)
        x, target = data.train_x[:_NUM_FOR_LOSS], data.train_y[:_NUM_FOR_LOSS]
        loss = nn.functional.cross_entropy(_outputs(network, x), target).item()
        num_parameters = sum(int(torch.count_nonzero(p)) for p in network.parameters())
        changes = _changes(result)
    return Run(
        arm=cell.arm,
        net=cell.task.net,
        data=cell.task.data,
        length=cell.length,
        source=cell.source,
        size=cell.size,
        rate=job.rate,
        seed=job.seed,
        steps=site.steps,
        diverged=loss is None,
        held_out_accuracy=held_out,
        test_accuracy=test,
        train_loss=loss,
        num_parameters=num_parameters,
        forward_flops=forward,
        sample_flops=sample,
        num_changes=changes,
        cpu_s=round(time.process_time() - started_cpu_s, 2),
        wall_s=round(time.perf_counter() - started_s, 2),
        machine=machine(),
    )


def accuracy(network: nn.Module, x: Tensor, target: Tensor) -> float:
    """The fraction of samples whose class the network has right."""
    return (_outputs(network, x).argmax(1) == target).double().mean().item()


def main(options: Options) -> int:
    """Run what is asked for, round after round; 1 if any run failed, 2 if the call is wrong."""
    console = Console()
    if unknown := sorted(set(options.families) - set(FAMILIES)):
        console.print(f"choose families among {', '.join(FAMILIES)}; found {', '.join(unknown)}.")
        return 2
    if options.limit:
        return _run_all("a try", _tried(options), options, console)
    for name, jobs in (*ROUNDS.items(), *([(FULL, full_jobs)] if options.full else [])):
        asked = [job for job in jobs(read_runs()) if _is_asked(job, options)]
        if code := _run_all(name, _pending(asked, read_runs()), options, console):
            return code  # the next round builds upon all of this one
    return 0


def _is_asked(job: Job, options: Options) -> bool:
    return any(job.cell.arm in FAMILIES[name].arms for name in options.families)


def _tried(options: Options) -> list[Job]:
    """Every arm on each of its tasks, as far as it was asked for."""
    asked = [FAMILIES[name] for name in options.families]
    tuned = rate_jobs(())[0]
    cells = dict.fromkeys(
        tuned.cell._replace(arm=arm, task=task) for family in asked for arm in family.arms for task in family.tasks
    )
    return [replace(tuned, cell=cell, limit=options.limit) for cell in cells]


def _pending(jobs: Iterable[Job], runs: Collection[Run]) -> list[Job]:
    done = {(run.cell, run.rate, run.seed) for run in runs}
    return [job for job in dict.fromkeys(jobs) if (job.cell, job.rate, job.seed) not in done]


def _run_all(name: str, jobs: list[Job], options: Options, console: Console) -> int:
    done = count(1)
    console.print(f"{name}: {len(jobs)} runs are to be made", highlight=False)

    def on_run(run: Run) -> None:
        if not options.limit:
            append_record(run, FOLDER / "results.jsonl")
        console.print(f"{next(done)}/{len(jobs)} {_described(run)}", highlight=False, soft_wrap=True)

    return carry_out(jobs, _measure, name=str, on_result=on_run, num_workers=options.num_workers, console=console)


def _measure(job: Job) -> Run:
    keep_freed_memory()
    return measure(job)


def _described(run: Run) -> str:
    on = "held out" if run.seed == SCREENING_SEED else "test"
    found = "diverged" if run.diverged else f"{run.accuracy:.2f} % {on}"
    return (
        f"{run.cell.task.title}, {ARMS[run.arm].title}, {run.length}, {run.source}, rate {run.rate:g}, "
        f"seed {run.seed}: {found}, {run.steps} steps, {run.cpu_s:.1f} s of a core in {run.wall_s:.1f} s"
    )


def _outputs(network: nn.Module, x: Tensor) -> Tensor:
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part) for part in x.split(_PART)])


def _changes(result: Result) -> dict[str, int]:
    """By event, how often it was carried out in all stages together."""
    found: dict[str, int] = {}
    for stage in result.summary["stages"]:
        for event, number in stage["changes"].items():
            found[event] = found.get(event, 0) + number
    return found


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
