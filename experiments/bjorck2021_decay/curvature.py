"""Does curvature explain what the decay does? Measures it at several points of runs that results.jsonl has.

    python -m experiments.bjorck2021_decay.curvature

Each run is made again, with the rate and strength that were found best, and looked at after each quarter. What is found
is appended to curvature.jsonl at once; what is there is skipped.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from torch import nn
from torch.optim import Optimizer

from experiments.bjorck2021_decay.bend import CURVATURE, LOOKED_AT, Bend, bend, read_bends
from experiments.bjorck2021_decay.config import STUDIES, Settings, config, network, split
from experiments.bjorck2021_decay.results import FOLDER, read_runs
from experiments.bjorck2021_decay.run import Job, accuracy, window_jobs
from experiments.jobs import carry_out
from experiments.machine import machine
from experiments.records import append_record
from pipeline import Config, prepare, run_simulated
from pipeline.records.checkpoint import read_stage
from pipeline.records.manifest import checkpoint_folder

__all__ = ["Options", "curvature_jobs", "main", "measure_curvature"]

MAIN = STUDIES[-1]
"""Where decay helps."""

_PARTS = 4
_NUM_SAMPLES = 300
"""Of the loss that is looked at: the first that are learned from, after a batch for the next step."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure and append to curvature.jsonl; what is already there is skipped."""

    seeds: tuple[int, ...] = (0, 1)
    num_workers: int = 1
    """Runs at the same time: a process of one thread each."""


def curvature_jobs(seeds: tuple[int, ...]) -> list[Job]:
    """The runs to be looked at, seed by seed."""
    jobs = window_jobs(read_runs(), MAIN, seeds)
    wanted = [job for job in jobs if job.window in LOOKED_AT and job.coupling in (None, "decoupled")]
    return sorted(wanted, key=lambda job: (job.seed, job.optimizer, LOOKED_AT.index(job.window)))


def measure_curvature(job: Job, settings: Settings = MAIN.settings, *, num_samples: int = _NUM_SAMPLES) -> list[Bend]:
    """Make one run, and look at it after each quarter."""
    started_s = time.process_time()
    own = config(
        job.optimizer,
        rate=job.rate,
        coupling=job.coupling or "decoupled",
        strength=job.strength,
        window=job.window,
        seed=job.seed,
        settings=settings,
    )
    every, data = settings.steps // _PARTS, split(settings.data)
    prepared = prepare(replace(own, checkpoint_every=every, keep_last=_PARTS + 1, keep_best=False))
    x, target = (part[: settings.batch_size + num_samples] for part in (data.train_x, data.train_y))
    values = []
    with tempfile.TemporaryDirectory() as folder:
        (stage,) = run_simulated(prepared, folder=Path(folder)).cut.stages
        test = accuracy(stage, data.test_x, data.test_y)
        for step in range(every, settings.steps + 1, every):
            state = read_stage(checkpoint_folder(Path(folder) / "checkpoints", step), 0, device=torch.device("cpu"))
            (then,) = network(x.shape[1], settings.width)
            assert isinstance(then, nn.Sequential)
            optimizer = _restored(then, own, state, step=step)
            values.append(bend(then, optimizer, x, target, batch_size=settings.batch_size))
    cpu_s = round((time.process_time() - started_s) / len(values), 2)
    return [
        Bend(
            optimizer=job.optimizer,
            coupling=job.coupling or "",
            window=job.window,
            seed=job.seed,
            part=(index + 1) / _PARTS,
            test_accuracy=test,
            values=found,
            cpu_s=cpu_s,
            machine=machine(),
        )
        for index, found in enumerate(values)
    ]


def main(options: Options) -> int:
    """Look at every run that has not been looked at; 1 if one failed."""
    console = Console()
    done = {(found.optimizer, found.window, found.seed) for found in read_bends(FOLDER / CURVATURE)}
    jobs = [job for job in curvature_jobs(options.seeds) if (job.optimizer, job.window, job.seed) not in done]

    def on_result(bends: list[Bend]) -> None:
        for found in bends:
            append_record(found, FOLDER / CURVATURE)
        last = bends[-1]
        console.print(
            f"{last.optimizer}, {last.window}, seed {last.seed}: {100 * last.test_accuracy:.2f} % test, "
            f"{sum(found.cpu_s for found in bends):.1f} s of a core",
            highlight=False,
        )

    return carry_out(
        jobs,
        measure_curvature,
        name=str,
        on_result=on_result,
        num_workers=options.num_workers,
        console=console,
    )


def _restored(module: nn.Module, own: Config, state: Mapping[str, Any], *, step: int) -> Optimizer:
    """Give the module its weights of a step; its optimiser, with the state and the rate of then."""
    module.load_state_dict({name.removeprefix("0."): value for name, value in state["module"].items()})
    parameters = dict(module.named_parameters())
    assert callable(own.optimizer) and callable(own.schedule)  # neither is one per stage
    optimizer = own.optimizer(parameters.values())
    saved = state["updater"]["optimizer"]
    held = {index: saved[f"0.{name}"] for index, name in enumerate(parameters)}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": held})
    for group in optimizer.param_groups:
        group["lr"] *= own.schedule(step - 1)
    return optimizer


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
