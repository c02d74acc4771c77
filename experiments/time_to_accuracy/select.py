"""At which rate, and with which synthesizer, is each method run? Decided on held-out training samples.

`python -m experiments.time_to_accuracy.select` trains every candidate on the first 49,920 training samples and
evaluates it on the last 10,000; the test set is not touched. Stages run on one thread in virtual time, so that what is
learned does not depend on the machine's load. The curves are appended to selection.jsonl; what is there is skipped.
With `--show` it says what follows from them, which is what config.py must hold.
"""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console

from experiments.jobs import carry_out
from experiments.records import append_line, read_records
from experiments.time_to_accuracy.alone import train_alone
from experiments.time_to_accuracy.config import ROWS, SYNTHESIZERS, TASKS, Choice
from experiments.time_to_accuracy.curve import read_accuracies
from pipeline import StageFailure, prepare, run_simulated
from pipeline.configuration.plan import StagePlan
from pipeline.configuration.prepared import Prepared
from pipeline.records.folder import commit

__all__ = ["RATES", "SEED", "SELECTION", "Candidate", "Job", "Options", "chosen", "jobs", "read_candidates", "validate"]

SELECTION = Path(__file__).parent / "selection.jsonl"
SEED = 100
"""No row of the table has it."""
SAMPLES = 57_600
"""Of each run; the training samples that are left make a shorter epoch than the table's."""
EVALUATE_EVERY = 6_400
"""Samples from one evaluation to the next."""
RATES: Mapping[str, Sequence[float]] = {
    "batch 64": (3e-4, 1e-3, 1e-4),
    "batch 256": (1e-3, 3e-4, 3e-3),
    "recompute": (3e-4, 1e-3, 1e-4, 3e-5),
    "weights": (3e-4, 1e-3, 1e-4, 3e-5),
    "dni": (3e-4, 1e-4, 1e-3, 3e-5),
    "cdni": (3e-4, 1e-4, 1e-3, 3e-5),
    "cdni_sync": (3e-4, 1e-4, 1e-3, 3e-5),
}
"""Adam's for the network, by method, the likely ones first; a synthesizer's is 1e-3."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A candidate to be trained."""

    task: str
    method: str
    choice: Choice
    samples: int = SAMPLES
    """To train on."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What came out of one: a line of selection.jsonl."""

    task: str
    method: str
    rate: float
    synthesizer: str | None
    samples: tuple[int, ...]
    """Trained on before each evaluation."""
    accuracies: tuple[float, ...]
    """Fractions of the held-out samples; fewer if the run broke off."""
    flops_per_sample: int
    """Of training, matrix products only: forward, backward, and the synthesizers' prediction and learning."""
    seed: int
    commit: str | None
    torch: str

    @property
    def choice(self) -> Choice:
        """What this candidate stands for."""
        return Choice(rate=self.rate, synthesizer=self.synthesizer)

    def rank(self, target: float) -> tuple[float, float]:
        """Smaller is better: arithmetic until the target is first reached, then a higher accuracy on the way."""
        reached = (n for n, accuracy in zip(self.samples, self.accuracies, strict=False) if accuracy >= target)
        return next(reached, math.inf) * self.flops_per_sample, -sum(self.accuracies) / len(self.samples)


@dataclass(frozen=True, kw_only=True)
class Options:
    """For example: python -m experiments.time_to_accuracy.select --num-workers 2"""

    show: bool = False
    """Run nothing; say what was chosen."""
    num_workers: int = 1
    """Candidates at the same time, of one thread each."""


def jobs() -> list[Job]:
    """All candidates, the likely ones first."""
    every = [
        (RATES[method].index(rate), Job(task=task, method=method, choice=Choice(rate=rate, synthesizer=synthesizer)))
        for method, task in product(RATES, TASKS)
        for rate, synthesizer in product(RATES[method], SYNTHESIZERS if "dni" in method else (None,))
    ]
    return [job for _, job in sorted(every, key=lambda pair: pair[0])]


def validate(job: Job) -> Candidate:
    """Train one candidate and evaluate it on the held-out samples."""
    row = next(row for row in ROWS.values() if row.method == job.method)
    config = row.config(replace(TASKS[job.task], held_out=True), job.choice)
    batch_size = row.batch_size
    config = replace(
        config,
        executor="simulate",
        seed=SEED,
        steps=job.samples // batch_size,
        evaluate_every=EVALUATE_EVERY // batch_size,
    )
    prepared = prepare(config)
    if row.family == "one process":
        accuracies = {point.samples: point.accuracy for point in train_alone(prepared, batch_size=batch_size)}
    else:
        accuracies = {step * batch_size: found for step, found in _simulated(prepared).items()}
    period = min(EVALUATE_EVERY, job.samples)
    return Candidate(
        task=job.task,
        method=job.method,
        rate=job.choice.rate,
        synthesizer=job.choice.synthesizer,
        samples=tuple(range(period, job.samples + 1, period)),
        accuracies=tuple(accuracies.values()),
        flops_per_sample=_training_flops(prepared.plans, batch_size),
        seed=SEED,
        commit=commit(),
        torch=torch.__version__,
    )


def read_candidates(path: Path = SELECTION) -> list[Candidate]:
    """What has been tried so far; nothing if there is no file yet."""
    return read_records(_candidate, path)


def chosen(tried: Iterable[Candidate]) -> dict[tuple[str, str], Choice]:
    """The best choice by task and method."""
    best: dict[tuple[str, str], Candidate] = {}
    for candidate in tried:
        key, target = (candidate.task, candidate.method), TASKS[candidate.task].target
        if key not in best or candidate.rank(target) < best[key].rank(target):
            best[key] = candidate
    return {key: candidate.choice for key, candidate in best.items()}


def main(options: Options) -> int:
    """Try every candidate that was not tried before; 1 if any failed."""
    tried = read_candidates()
    if options.show:
        for key, choice in sorted(chosen(tried).items()):
            print(f"    {key}: {choice},")
        return 0
    done = {(candidate.task, candidate.method, candidate.choice) for candidate in tried}
    left = [job for job in jobs() if (job.task, job.method, job.choice) not in done]

    def on_candidate(candidate: Candidate) -> None:
        line = asdict(candidate)
        append_line(line, SELECTION)
        print(line, flush=True)

    return carry_out(
        left,
        validate,
        name=lambda job: f"{job.task} {job.method} {job.choice}",
        on_result=on_candidate,
        num_workers=options.num_workers,
        console=Console(),
    )


def _candidate(**line: Any) -> Candidate:
    """Of a line, in which tuples are lists."""
    return Candidate(**line | {name: tuple(line[name]) for name in ("samples", "accuracies")})


def _simulated(prepared: Prepared) -> Mapping[int, float]:
    """Accuracies by step; those until then, if the loss stopped being a number."""
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(StageFailure):
            run_simulated(prepared, folder=Path(folder))
        return read_accuracies(Path(folder), last_stage=prepared.num_stages - 1)


def _training_flops(plans: Iterable[StagePlan], batch_size: int) -> int:
    """The forward once and the backward twice; a dense synthesizer predicts once and learns three times that."""
    forward = sum(plan.forward_flops for plan in plans)
    predicting = sum(2 * plan.source_parameters for plan in plans)
    return 3 * forward // batch_size + 4 * predicting


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
