"""How is a row measured? One row and one seed at a time, each appended to results.jsonl at once.

python -m experiments.shang2019_alternating.run --num-workers 2
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import count

import tyro
from rich.console import Console

from experiments.jobs import carry_out
from experiments.machine import machine
from experiments.records import append_record
from experiments.shang2019_alternating.config import ROWS, Settings
from experiments.shang2019_alternating.learning import Progress, train
from experiments.shang2019_alternating.results import RESULTS, Run, read_runs
from experiments.text import Words, wikitext2_words

__all__ = ["Job", "Options", "measure", "pending_jobs"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure rows of the table and append them to results.jsonl; what is already there is skipped."""

    rows: tuple[str, ...] = ()
    """Rows to measure, named as in config.py; none: all but those of --full."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds to measure each row with."""
    epoch: int | None = None
    """Updates in an epoch instead of the row's own, for a try: such runs are shown and not appended."""
    full: bool = False
    """Also measure the rows of the larger size."""
    num_workers: int = 1
    """Runs at the same time: a process of one thread each."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row, one seed."""

    row: str
    seed: int
    epoch: int | None = None
    """Updates in an epoch instead of the row's own."""

    def settings(self) -> Settings:
        """What the run is set to."""
        settings = ROWS[self.row].settings
        return settings if self.epoch is None else replace(settings, updates_per_epoch=self.epoch)


def pending_jobs(options: Options, done: Collection[tuple[str, int]]) -> list[Job]:
    """The (row, seed) pairs asked for that were not measured before, seed after seed.

    Raises:
        ValueError: there is no such row, or an epoch has no updates.
    """
    if unknown := sorted(set(options.rows) - set(ROWS)):
        raise ValueError(f"rows must be among {', '.join(ROWS)}; found {', '.join(unknown)}.")
    if options.epoch is not None and options.epoch < 1:
        raise ValueError(f"--epoch must be at least 1 update; found {options.epoch}.")
    rows = options.rows or [name for name, row in ROWS.items() if options.full or not row.full]
    pairs = [(row, seed) for seed in options.seeds for row in rows]
    return [
        Job(row=row, seed=seed, epoch=options.epoch) for row, seed in pairs if options.epoch or (row, seed) not in done
    ]


def measure(job: Job, read: Callable[[], Words] = wikitext2_words) -> Run:
    """Carry out one run."""
    settings, text = job.settings(), read()
    started_s = time.perf_counter()
    evaluated: list[Progress] = []
    for progress in train(ROWS[job.row], settings, text, seed=job.seed):
        if progress.valid is not None:
            evaluated.append(progress)
    last = evaluated[-1]
    curve = [(progress.update, progress.valid) for progress in evaluated if progress.valid is not None]
    assert last.test is not None, "the last update is one that is evaluated"
    return Run(
        row=job.row,
        seed=job.seed,
        test=last.test,
        valid=min(valid for _, valid in curve),
        curve=curve,
        cosines=[(progress.update, progress.cosine) for progress in evaluated if progress.cosine is not None],
        updates=last.update,
        words=last.update * settings.span * settings.batch_size,
        train_cpu_s=round(last.train_cpu_s, 2),
        wall_s=round(time.perf_counter() - started_s, 1),
        num_parameters=last.num_parameters,
        synthesizer_parameters=last.synthesizer_parameters,
        settings=asdict(settings),
        machine=machine(),
    )


def main(options: Options) -> int:
    """Run what is asked for; 1 if any run failed, 2 if the call is wrong."""
    console = Console()
    try:
        jobs = pending_jobs(options, {(run.row, run.seed) for runs in read_runs().values() for run in runs})
    except ValueError as error:
        console.print(error)
        return 2
    done = count(1)

    def on_run(run: Run) -> None:
        if options.epoch is None:
            append_record(run, RESULTS)
        console.print(
            f"{next(done)}/{len(jobs)} {run.row}, seed {run.seed}: validation perplexity {run.valid:.1f}, "
            f"{run.train_cpu_s:.0f} s of {run.wall_s:.0f} s in updates",
            highlight=False,
        )

    return carry_out(
        jobs,
        _measure,
        name=lambda job: f"{job.row}, seed {job.seed}",
        on_result=on_run,
        num_workers=options.num_workers,
        console=console,
    )


def _measure(job: Job) -> Run:
    return measure(job, _text)


@cache
def _text() -> Words:
    """Read once in a process."""
    return wikitext2_words()


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
