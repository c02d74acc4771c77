"""How is everything measured? A run at a time, looked at at three steps, each appended to results.jsonl.

python -m experiments.landscape.run
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from experiments.jobs import Tell, carry_out_in_parts
from experiments.landscape.boundaries import fit_forms, grade_boundaries, grade_forms
from experiments.landscape.config import FULL, METHODS, SEEDS, SETTINGS, Job, Settings, config, jobs, split
from experiments.landscape.estimates import estimate_all, summarise_estimates
from experiments.landscape.frozen import Frozen, freeze
from experiments.landscape.results import RESULTS, Record, done, read_results
from experiments.landscape.slices import cut_lines, cut_planes, find_lowest
from experiments.machine import machine
from experiments.records import append_record
from pipeline import prepare, run_simulated

__all__ = ["Options", "look", "main", "pending_jobs", "work"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train the networks and append what is seen at each checkpoint to results.jsonl; what is there is skipped."""

    only: tuple[str, ...] = ()
    """Methods to run, as `local loss`; none: all."""
    full: bool = False
    """Also the sweep of rates and syncs: 27 runs more, about half an hour of one core."""
    num_workers: int = 1
    """Runs at the same time: a process of one thread each."""


def pending_jobs(options: Options, records: list[Record], settings: Settings = SETTINGS) -> list[Job]:
    """What is asked for and was not measured before.

    Raises:
        ValueError: there is no such method.
    """
    if unknown := [name for name in options.only if name not in METHODS]:
        raise ValueError(f"only must name methods, got {', '.join(unknown)}; there are {', '.join(METHODS)}.")
    asked = [
        job for job in [*jobs(), *(FULL if options.full else ())] if not options.only or job.method in options.only
    ]
    return [job for job in asked if not done(records, job, settings.checkpoints)]


def work(settings: Settings, job: Job, tell: Tell) -> None:
    """Train a network, and look at it at each checkpoint."""
    for record in _records(settings, job):
        tell(record)
        tell(f"{job.method}, seed {job.seed}")


def look(frozen: Frozen, settings: Settings, *, with_plane: bool) -> dict[str, Any]:
    """All that is measured of a network at a step: the fields of `Record` by name."""
    data = split()
    order = torch.randperm(len(data.train_x), generator=frozen.draw("samples"))
    chosen = order[: settings.num_slice_samples]
    sliced = (data.train_x[chosen], data.train_y[chosen])
    held_out = (data.held_out_x[: settings.num_held_out], data.held_out_y[: settings.num_held_out])
    fitted = order[: settings.num_fit_samples]
    next_used = frozen.used_gradient([frozen.batch])(frozen.point)
    next_true = frozen.true_loss([frozen.batch]).gradient(frozen.point)
    used, true = estimate_all(frozen, data.train_x, data.train_y, settings)
    updates = {"used": frozen.update(next_used), "true": frozen.update(next_true)}
    whole = {"used, all samples": frozen.update(used.whole), "true, all samples": frozen.update(true.whole)}
    weights = fit_forms(frozen, (data.train_x[fitted], data.train_y[fitted]))
    return {
        "test_error": _error(frozen.stages, data.test_x, data.test_y),
        "train_loss": frozen.true_loss([sliced])(frozen.point),
        "lines": cut_lines(frozen, updates, sliced),
        "lowest": find_lowest(frozen, updates | whole, sliced),
        "plane": cut_planes(frozen, updates["used"], sliced, settings) if with_plane else None,
        "estimates": summarise_estimates(used, true),
        "boundaries": grade_boundaries(frozen, held_out),
        "forms": grade_forms(frozen, weights, held_out),
    }


def main(options: Options) -> int:
    """Run what is asked for; 1 if any run failed, 2 if the call is wrong."""
    console = Console()
    try:
        pending = pending_jobs(options, read_results())
    except ValueError as error:
        console.print(error)
        return 2

    def on_record(record: Record) -> None:
        append_record(record, RESULTS)
        console.print(
            f"{record.method}, seed {record.seed}, step {record.step}: test error {100 * record.test_error:.2f} %, "
            f"{record.cpu_s:.1f} s",
            highlight=False,
        )

    code = carry_out_in_parts(
        pending,
        partial(work, SETTINGS),
        parts="checkpoints",
        num_parts=len(pending) * len(SETTINGS.checkpoints),
        name=lambda job: f"{job.method}, seed {job.seed}",
        on_result=on_record,
        num_workers=options.num_workers,
        console=console,
    )
    console.print(f"{len(pending)} runs; results in {RESULTS.name}, then: table.py")
    return code


def _records(settings: Settings, job: Job) -> Iterator[Record]:
    started_s = time.process_time()
    setting = config(job, settings)
    with tempfile.TemporaryDirectory() as folder:
        run_simulated(prepare(setting), folder=Path(folder))
        for step in settings.checkpoints:
            frozen = freeze(setting, Path(folder), step)
            found = look(frozen, settings, with_plane=job.seed == SEEDS[0])
            now_s = time.process_time()
            yield Record(**asdict(job), step=step, **found, cpu_s=round(now_s - started_s, 2), machine=machine())
            started_s = now_s


def _error(stages: Sequence[nn.Module], x: Tensor, target: Tensor) -> float:
    with torch.no_grad():
        return (nn.Sequential(*stages)(x).argmax(1) != target).double().mean().item()


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
