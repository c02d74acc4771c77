"""How is a row measured? One row and one seed at a time, each appended to results.jsonl.

python -m experiments.jaderberg2017_recurrent.run --rows copy_bptt_3 copy_dni_3 --seeds 0 1 --num-workers 2
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import tyro
from rich.console import Console

from experiments.jaderberg2017_recurrent.config import CHARACTERS, COPYING, ROWS, Characters, Copying
from experiments.jaderberg2017_recurrent.learning import Progress, copy_sequences, model_characters
from experiments.jaderberg2017_recurrent.results import RESULTS, Run, read_runs
from experiments.jobs import Tell, carry_out_in_parts
from experiments.machine import machine
from experiments.records import append_record

__all__ = ["Job", "Options", "measure", "pending_jobs"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure rows of the table and append them to results.jsonl; what is already there is skipped."""

    rows: tuple[str, ...] = ()
    """Rows to measure, named as in config.py; none: all but those of --full."""
    seeds: tuple[int, ...] = (0,)
    """Seeds to measure each row with."""
    steps: int | None = None
    """Another budget, for a try: such runs are shown and not appended."""
    full: bool = False
    """Also measure the character model at T = 2 to 5."""
    label: str = ""
    """Name of these runs in the results; empty: the date."""
    num_workers: int = 1
    """Runs at the same time: a process of one thread each."""


@dataclass(frozen=True)
class Job:
    """One row, one seed."""

    row: str
    seed: int
    steps: int | None = None
    """Instead of the row's own budget."""
    label: str = ""

    def settings(self) -> Copying | Characters:
        """The settings of the row's task."""
        settings = COPYING if "copy" in ROWS[self.row].task else CHARACTERS
        return settings if self.steps is None else replace(settings, budget=self.steps)

    def play(self) -> Iterator[Progress]:
        """The run, update by update."""
        row, settings = ROWS[self.row], self.settings()
        if isinstance(settings, Copying):
            return copy_sequences(row, settings, seed=self.seed)
        return model_characters(row, settings, seed=self.seed)


def measure(job: Job, advance: Callable[[int], None] = lambda num_steps: None) -> Run:
    """Carry out one run; `advance` hears of the steps as they are done."""
    curve: list[tuple[int, float]] = []
    told, started, progress = 0, time.perf_counter(), None
    for progress in job.play():
        if progress.value == progress.value and (not curve or curve[-1][1] != progress.value):
            curve.append((progress.steps, progress.value))
        if progress.steps - told >= 500:
            advance(progress.steps - told)
            told = progress.steps
    assert progress is not None, "a budget is at least one update"
    advance(progress.steps - told)
    return Run(
        row=job.row,
        seed=job.seed,
        label=job.label or time.strftime("%Y-%m-%d"),
        value=progress.value if progress.test is None else progress.test,
        valid=None if progress.test is None else progress.value,
        trying=progress.trying,
        error=progress.error,
        curve=curve,
        steps=progress.steps,
        updates=progress.updates,
        wall_s=round(time.perf_counter() - started, 1),
        num_parameters=progress.num_parameters,
        synthesizer_parameters=progress.synthesizer_parameters,
        settings=asdict(job.settings()),
        machine=machine(),
    )


def pending_jobs(options: Options, done: set[tuple[str, int]]) -> list[Job]:
    """The (row, seed) pairs asked for that were not measured before.

    Raises:
        ValueError: there is no such row, or a budget below one span.
    """
    if unknown := sorted(set(options.rows) - set(ROWS)):
        raise ValueError(f"rows must be among {', '.join(ROWS)}; found {', '.join(unknown)}.")
    if options.steps is not None and options.steps < CHARACTERS.span:
        raise ValueError(f"--steps must be at least a span, {CHARACTERS.span}; found {options.steps}.")
    rows = options.rows or [name for name, row in ROWS.items() if options.full or not row.full]
    pairs = [(row, seed) for seed in options.seeds for row in rows]
    return [
        Job(row, seed, options.steps, options.label) for row, seed in pairs if options.steps or (row, seed) not in done
    ]


def main(options: Options) -> int:
    """Run what is asked for; 1 if any run failed, 2 if the call is wrong."""
    console = Console()
    done = {(run.row, run.seed) for runs in read_runs().values() for run in runs}
    try:
        jobs = pending_jobs(options, done)
    except ValueError as error:
        console.print(error)
        return 2

    def on_run(run: Run) -> None:
        if options.steps is None:
            append_record(run, RESULTS)
        console.print(f"{run.row} seed {run.seed}: {run.value:.3f}, {run.updates} updates, {run.wall_s} s")

    code = carry_out_in_parts(
        jobs,
        _measure,
        parts="steps",
        num_parts=sum(job.settings().budget for job in jobs),
        name=lambda job: f"{job.row} seed {job.seed}",
        on_result=on_run,
        num_workers=options.num_workers,
        console=console,
    )
    console.print(f"{len(jobs)} runs; results in {RESULTS.name}, then: table.py")
    return code


def _measure(job: Job, tell: Tell) -> None:
    tell(measure(job, tell))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
