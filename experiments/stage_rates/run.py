"""How accurate is a decoupled network whose stages take their rates from the curvature that they see?

    python -m experiments.stage_rates.run

Tries every value of every arm with the first seed, runs the best with all seeds, those without curvature for longer
too, and sets what stages see beside the true loss where SGD has trained them. Each run is appended to results.jsonl at
once; what is there is skipped.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from experiments.jobs import carry_out
from experiments.machine import machine
from experiments.stage_rates.comparison import compare
from experiments.stage_rates.config import ARMS, SEEDS, SETTINGS, SOURCES, TASKS, Settings, config, split
from experiments.stage_rates.results import RESULTS, Run, append_run, best_value, read_runs
from pipeline import StageFailure, prepare, run_simulated
from pipeline.errors import NotFinite

__all__ = ["Job", "Options", "early_jobs", "final_jobs", "longer_jobs", "measure", "tuning_jobs"]

_COMPARED = "SGD"
"""The arm whose stages are compared with the true loss."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure everything and append it to results.jsonl; what is already there is skipped."""

    num_workers: int = 1
    """Runs at the same time: a process of one thread each."""
    tasks: tuple[str, ...] = tuple(task.title for task in TASKS)
    """One after the other: of each, what is tried, the best with all seeds, their beginnings, and longer runs."""
    results: Path = RESULTS
    """The file."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    task: str
    source: str
    arm: str
    value: float
    seed: int
    settings: Settings = SETTINGS

    @property
    def key(self) -> tuple[Any, ...]:
        """As that of its `Run`."""
        return self.task, self.source, self.arm, self.value, self.seed, self.settings.steps

    @property
    def title(self) -> str:
        return f"{self.task}, {self.source}, {self.arm} {self.value:g}, seed {self.seed}, {self.settings.steps} steps"


def tuning_jobs(task: str) -> list[Job]:
    """Every value of every arm, with the first seed."""
    return [
        Job(task=task, source=source, arm=arm.title, value=value, seed=SEEDS[0])
        for source in SOURCES
        for arm in ARMS
        for value in arm.tried
    ]


def final_jobs(task: str, runs: Sequence[Run]) -> list[Job]:
    """The best of each arm with all seeds."""
    return [
        Job(task=task, source=source, arm=arm.title, value=value, seed=seed)
        for source in SOURCES
        for arm in ARMS
        if (value := best_value(runs, (task, source, arm.title))) is not None
        for seed in SEEDS
    ]


def early_jobs(task: str, runs: Sequence[Run]) -> list[Job]:
    """The beginnings of those whose stages are compared with the true loss."""
    early = replace(SETTINGS, steps=SETTINGS.early)
    return [replace(job, settings=early) for job in final_jobs(task, runs) if job.arm == _COMPARED]


def longer_jobs(task: str, runs: Sequence[Run]) -> list[Job]:
    """Those without curvature, for as long as the time goes that curvature takes."""
    longer = replace(SETTINGS, steps=SETTINGS.longer)
    plain = {arm.title for arm in ARMS if not arm.by}
    return [replace(job, settings=longer) for job in final_jobs(task, runs) if job.arm in plain]


def measure(job: Job) -> Run:
    """Carry out one run."""
    prepared = prepare(config(job.task, job.source, job.arm, job.value, seed=job.seed, settings=job.settings))
    data = split(job.task, job.settings)
    loss = held_out = test = None
    compared = {}
    counts = (0, 0)
    started_s = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = run_simulated(prepared, folder=Path(folder))
        except StageFailure as failure:
            if not isinstance(failure.__cause__, NotFinite):
                raise
            cpu_s = time.process_time() - started_s
        else:
            cpu_s = time.process_time() - started_s
            stages = result.cut.stages
            held_out, test = (
                _accuracy(stages, x, y) for x, y in ((data.held_out_x, data.held_out_y), (data.test_x, data.test_y))
            )
            loss = result.summary["train_loss"]
            counts = _counts(Path(folder), len(stages))
            if job.arm == _COMPARED:
                x, y = (part[: job.settings.num_compared] for part in (data.train_x, data.train_y))
                compared = compare(stages, prepared.sources, nn.CrossEntropyLoss(), x, y)
    return Run(
        task=job.task,
        source=job.source,
        arm=job.arm,
        value=job.value,
        seed=job.seed,
        train_loss=loss,
        held_out_accuracy=held_out,
        test_accuracy=test,
        cpu_s=round(cpu_s, 2),
        num_summaries=counts[0],
        num_unsolved=counts[1],
        compared=compared,
        settings=asdict(job.settings),
        machine=machine(),
    )


def _accuracy(stages: Sequence[nn.Module], x: Tensor, target: Tensor) -> float:
    """The fraction of samples whose class the network has right."""
    with torch.no_grad():
        return (nn.Sequential(*stages).eval()(x).argmax(1) == target).double().mean().item()


def _counts(folder: Path, num_stages: int) -> tuple[int, int]:
    """Summaries, and those without rates, of all stages."""
    made = unsolved = 0
    for index in range(num_stages):
        lines = map(json.loads, (folder / "metrics" / f"stage-{index}.jsonl").read_text().splitlines())
        found = [line["curvature/unsolved"] for line in lines if "curvature/unsolved" in line]
        made += len(found)
        unsolved += int(found[-1]) if found else 0
    return made, unsolved


def main(options: Options) -> int:
    """Tune, then run the best with all seeds, then their beginnings, then those that are longer."""
    console = Console()
    failed = 0
    for task in options.tasks:
        for jobs_of in (lambda task, runs: tuning_jobs(task), final_jobs, early_jobs, longer_jobs):
            runs = read_runs(options.results)
            done = {run.key for run in runs}
            failed |= carry_out(
                [job for job in jobs_of(task, runs) if job.key not in done],
                measure,
                name=lambda job: job.title,
                on_result=lambda run: append_run(run, options.results),
                num_workers=options.num_workers,
                console=console,
            )
    return failed


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
