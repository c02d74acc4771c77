"""How accurate is a network whose weights decayed in a part of its training only, and how far did its updates move it?

    python -m experiments.bjorck2021_decay.run

In each study tries rates and strengths with the first seed, and then, where the study asks for it, runs every window
with every seed. Each run is appended to results.jsonl at once; what is there is skipped.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from dni import Coupling
from experiments.bjorck2021_decay.config import (
    NONE,
    SEEDS,
    STUDIES,
    Settings,
    Study,
    config,
    split,
)
from experiments.bjorck2021_decay.results import (
    Run,
    append_run,
    best_rates,
    best_strengths,
    of_study,
    read_runs,
)
from experiments.machine import machine
from pipeline import StageFailure, prepare, run_simulated
from pipeline.errors import NotFinite

__all__ = ["Job", "Options", "accuracy", "measure", "rate_jobs", "strength_jobs", "window_jobs"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure everything and append it to results.jsonl; what is already there is skipped."""

    seeds: tuple[int, ...] = SEEDS
    num_workers: int = 1
    """Runs at the same time: a process of one thread each."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    optimizer: str
    rate: float
    seed: int
    window: str = NONE
    coupling: Coupling | None = None
    """None: nothing decays."""
    strength: float = 0.0


def rate_jobs(study: Study) -> list[Job]:
    """Every rate, without decay."""
    return [
        Job(optimizer=optimizer, rate=rate, seed=SEEDS[0]) for optimizer, rates in study.rates.items() for rate in rates
    ]


def strength_jobs(runs: Iterable[Run], study: Study) -> list[Job]:
    """Every strength, with decay all the time, at the best rate."""
    rates = best_rates(runs, study)
    return [
        Job(
            optimizer=arm.optimizer,
            rate=rates[arm.optimizer],
            seed=SEEDS[0],
            window="all",
            coupling=arm.coupling,
            strength=strength,
        )
        for arm, strengths in study.strengths.items()
        for strength in strengths
    ]


def window_jobs(runs: Sequence[Run], study: Study, seeds: Iterable[int] = SEEDS) -> list[Job]:
    """The study's windows with every seed, at the best rate and strength."""
    rates, strengths = best_rates(runs, study), best_strengths(runs, study)
    seeds = tuple(seeds)
    optimizers = dict.fromkeys(arm.optimizer for arm in study.windowed)
    jobs = [Job(optimizer=optimizer, rate=rates[optimizer], seed=seed) for seed in seeds for optimizer in optimizers]
    return jobs + [
        Job(
            optimizer=arm.optimizer,
            rate=rates[arm.optimizer],
            seed=seed,
            window=window,
            coupling=arm.coupling,
            strength=strengths[arm],
        )
        for arm in study.windowed
        for seed in seeds
        for window in study.windows
    ]


def measure(job: Job, settings: Settings) -> Run:
    """Carry out one run."""
    started_s = time.perf_counter()
    prepared = prepare(
        config(
            job.optimizer,
            rate=job.rate,
            coupling=job.coupling or "decoupled",
            strength=job.strength,
            window=job.window,
            seed=job.seed,
            settings=settings,
        )
    )
    loss = held_out = test = None
    course: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            (stage,) = run_simulated(prepared, folder=Path(folder)).cut.stages
        except StageFailure as failure:
            if not isinstance(failure.__cause__, NotFinite):
                raise
        else:
            data = split(settings.data)
            held_out = accuracy(stage, data.held_out_x, data.held_out_y)
            test = accuracy(stage, data.test_x, data.test_y)
            lines = [json.loads(line) for line in (Path(folder) / "metrics" / "stage-0.jsonl").read_text().splitlines()]
            loss = lines[-1]["loss"]
            course = {name: [line[name] for line in lines] for name in lines[0] if name.endswith(".weight")}
    return Run(
        optimizer=job.optimizer,
        coupling=job.coupling or "",
        window=job.window,
        rate=job.rate,
        strength=job.strength,
        seed=job.seed,
        train_loss=loss,
        held_out_accuracy=held_out,
        test_accuracy=test,
        course=course,
        wall_s=round(time.perf_counter() - started_s, 1),
        settings=asdict(settings),
        machine=machine(),
    )


def accuracy(module: nn.Module, x: Tensor, target: Tensor) -> float:
    """The fraction of samples whose class the network has right."""
    with torch.no_grad():
        return (module.eval()(x).argmax(1) == target).double().mean().item()


def main(options: Options) -> int:
    """Run every study: rates, then strengths, then windows."""
    console = Console()
    for study in STUDIES:
        _run_all(rate_jobs(study), study, options, console)
        _run_all(strength_jobs(read_runs(), study), study, options, console)
        _run_all(window_jobs(read_runs(), study, options.seeds), study, options, console)
    return 0


def _run_all(jobs: list[Job], study: Study, options: Options, console: Console) -> None:
    done = {_key(run) for run in of_study(read_runs(), study)}
    todo = [job for job in jobs if _key(job) not in done]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.num_workers, mp_context=context, initializer=_one_thread) as pool:
        pending = [pool.submit(measure, job, study.settings) for job in todo]
        for count, future in enumerate(as_completed(pending), 1):
            run = future.result()
            append_run(run)
            found = "diverged" if run.held_out_accuracy is None else f"{100 * run.held_out_accuracy:.2f} % held out"
            console.print(
                f"{study.title}: {count}/{len(todo)} {run.optimizer} {run.coupling} {run.strength:g}, {run.window}, "
                f"rate {run.rate:g}, seed {run.seed}: {found}, {run.wall_s:.1f} s",
                highlight=False,
            )


def _key(job: Job | Run) -> tuple[str, str, str, float, float, int]:
    return job.optimizer, job.coupling or "", job.window, job.rate, job.strength, job.seed


def _one_thread() -> None:
    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
