"""How is a row measured? One seed at a time, its rows one after the other, each appended to results.jsonl.

python -m experiments.hu2020_sib.run --num-workers 2
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import mean
from typing import TypeAlias

import tyro
from rich.console import Console

from dni import FewShotClassifier
from experiments.hu2020_sib.adaptation import Outcome, evaluate, half_width, train_classifier
from experiments.hu2020_sib.config import ROWS, SEEDS, Row, Settings
from experiments.hu2020_sib.features import Features, compute_features, train_features
from experiments.hu2020_sib.results import RESULTS, Run, read_runs
from experiments.jobs import carry_out_in_parts
from experiments.machine import machine
from experiments.omniglot import Omniglot, omniglot
from experiments.records import append_record

__all__ = ["Job", "Options", "Tested", "Told", "choose", "measure", "pending_jobs"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure rows of the table and append them to results.jsonl; what is already there is skipped."""

    rows: tuple[str, ...] = ()
    """Rows to measure, such as 1shot_k3; none: all."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds to measure each row with."""
    fraction: float = 1.0
    """Less of all training and testing, for a try: below 1 the rows are shown and not appended."""
    num_workers: int = 1
    """Seeds at the same time: a process of one thread each."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One seed and the rows that it still needs."""

    seed: int
    rows: tuple[str, ...]
    settings: Settings

    @property
    def num_networks(self) -> int:
        """Networks trained for it: the features, K = 0 for each number of shots, and for the others one for each η."""
        rows = [ROWS[name] for name in self.rows]
        adapting = sum(row.num_steps > 0 for row in rows)
        return 1 + len({row.shots for row in rows}) + adapting * len(self.settings.step_rates)


@dataclass(frozen=True, kw_only=True)
class Tested:
    """The classifier of a row: the best of its candidates on validation tasks, on test tasks."""

    step_rate: float
    validation_accuracy: float
    outcome: Outcome
    train_loss: float
    train_s: float


@dataclass(frozen=True, kw_only=True)
class _Trained:
    classifier: FewShotClassifier
    validation_accuracy: float
    train_loss: float
    train_s: float


Told: TypeAlias = str | Run
"""What a job tells: that a network is trained, in words, or a row."""


def measure(job: Job, data: Omniglot, tell: Callable[[Told], None]) -> None:
    """Carry out one job; `tell` hears of every network as it is trained, and of every row."""
    features = compute_features(train_features(data.train, seed=job.seed, settings=job.settings), data)
    tell(f"seed {job.seed}: features")
    for shots in sorted({ROWS[name].shots for name in job.rows}):
        # Trained again where it was measured before: the gains of the others are over it, task by task.
        zero = choose(Row(shots, 0), features, job, tell)
        for name, row in ROWS.items():
            if name in job.rows and row.shots == shots:
                tested = zero if row.num_steps == 0 else choose(row, features, job, tell)
                tell(_run(name, job.seed, tested, zero))


def choose(row: Row, features: Features, job: Job, tell: Callable[[Told], None]) -> Tested:
    """Train a classifier with each candidate η, and test the one with the best accuracy on validation tasks."""
    candidates = []
    for rate in job.settings.step_rates if row.num_steps else (0.0,):
        candidates.append(_train(row, rate, features, job))
        tell(f"seed {job.seed}: {row.shots} shots, K = {row.num_steps}, η = {rate:g}")
    best = max(candidates, key=lambda each: each.validation_accuracy)
    settings = job.settings
    outcome = evaluate(
        *(best.classifier, features.test, "test"),
        num_tasks=settings.test_tasks,
        row=row,
        seed=job.seed,
        settings=settings,
    )
    return Tested(
        step_rate=best.classifier.rate,
        validation_accuracy=best.validation_accuracy,
        outcome=outcome,
        train_loss=best.train_loss,
        train_s=best.train_s,
    )


def pending_jobs(options: Options, done: Iterable[tuple[str, int]]) -> list[Job]:
    """What is asked for and was not measured before, by seed.

    Raises:
        ValueError: there is no such row, or the fraction is not in (0, 1].
    """
    if unknown := sorted(set(options.rows) - set(ROWS)):
        raise ValueError(f"rows must be among {', '.join(ROWS)}; found {', '.join(unknown)}.")
    if not 0 < options.fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], got {options.fraction}. Leave it out for the whole table.")
    settings, skipped = Settings().scaled(options.fraction), set(done) if options.fraction == 1 else set()
    asked = {seed: [row for row in options.rows or ROWS if (row, seed) not in skipped] for seed in options.seeds}
    return [Job(seed=seed, rows=tuple(rows), settings=settings) for seed, rows in asked.items() if rows]


def main(options: Options) -> int:
    """Run what is asked for; 1 if any run failed, 2 if the call is wrong."""
    console = Console()
    try:
        jobs = pending_jobs(options, {(run.row, run.seed) for runs in read_runs().values() for run in runs})
    except ValueError as error:
        console.print(error)
        return 2

    def on_run(run: Run) -> None:
        if options.fraction == 1:
            append_record(run, RESULTS)
        console.print(
            f"{run.row} seed {run.seed}: {100 * run.accuracy:.2f} ± {100 * run.half_width:.2f} %, "
            f"{100 * run.gain:+.2f} ± {100 * run.gain_half_width:.2f} over K = 0, η {run.step_rate:g}, "
            f"{run.train_s:.1f} s",
            highlight=False,
        )

    code = carry_out_in_parts(
        jobs,
        _measure,
        parts="networks",
        num_parts=sum(job.num_networks for job in jobs),
        name=lambda job: f"seed {job.seed}",
        on_result=on_run,
        num_workers=options.num_workers,
        console=console,
    )
    console.print(f"{len(jobs)} seeds; results in {RESULTS.name}, then: table.py")
    return code


def _measure(job: Job, tell: Callable[[Told], None]) -> None:
    measure(job, omniglot(), tell)


def _train(row: Row, step_rate: float, features: Features, job: Job) -> _Trained:
    losses: list[float] = []
    started_s = time.perf_counter()
    classifier = train_classifier(
        features.train, row=row, step_rate=step_rate, seed=job.seed, settings=job.settings, on_loss=losses.append
    )
    train_s = time.perf_counter() - started_s
    validated = evaluate(
        *(classifier, features.validation, "validation"),
        num_tasks=job.settings.validation_tasks,
        row=row,
        seed=job.seed,
        settings=job.settings,
    )
    return _Trained(
        classifier=classifier,
        validation_accuracy=validated.accuracy.mean().item(),
        train_loss=mean(losses[-100:]),
        train_s=train_s,
    )


def _run(name: str, seed: int, tested: Tested, zero: Tested) -> Run:
    accuracy, cosine = tested.outcome.accuracy, tested.outcome.cosine
    gain = accuracy - zero.outcome.accuracy
    return Run(
        row=name,
        seed=seed,
        step_rate=tested.step_rate,
        validation_accuracy=tested.validation_accuracy,
        accuracy=accuracy.mean().item(),
        half_width=half_width(accuracy),
        gain=gain.mean().item(),
        gain_half_width=half_width(gain),
        cosine=cosine.mean().item(),
        train_loss=tested.train_loss,
        train_s=tested.train_s,
        machine=machine(),
    )


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
