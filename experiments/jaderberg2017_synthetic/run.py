"""How is a row measured? One row and one seed at a time, each appended to results.jsonl.

python -m experiments.jaderberg2017_synthetic.run --rows bp_5 cdni_5 --seeds 0 1 2 --num-workers 2
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console

from experiments.expected import read_expected
from experiments.jaderberg2017_synthetic import config as rows_module
from experiments.jaderberg2017_synthetic.results import EXPECTED, FOLDER, RESULTS, Run, read_runs
from experiments.jobs import Tell, carry_out_in_parts
from experiments.records import append_record
from pipeline import Config, prepare, run_simulated
from pipeline.configuration.plan import StagePlan
from pipeline.records.folder import commit
from pipeline.records.monitor import StageStatus

__all__ = ["Job", "Options", "measure", "pending_jobs", "training_flops"]

_ROOT = FOLDER.parent.parent


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure rows of the table and append them to results.jsonl; what is already there is skipped."""

    rows: tuple[str, ...] = ()
    """Rows to measure, named as in config.py; none: all but those of --full."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds to measure each row with."""
    steps: int | None = None
    """Shorter runs, for a try: they are shown and not appended."""
    full: bool = False
    """Also measure the rows with the paper's large synthesizers (dni_paper), which take ten times as long."""
    num_workers: int = 1
    """Runs at the same time: a process of one thread each (the torchrun row starts five more)."""


@dataclass(frozen=True)
class Job:
    """One row, one seed."""

    row: str
    seed: int
    steps: int | None = None
    """Instead of the row's own number of steps."""

    def config(self) -> Config:
        """The whole configuration of the run."""
        config = getattr(rows_module, self.row)()
        return replace(config, seed=self.seed, steps=self.steps or config.steps)


class _Counter:
    """Tells how many steps were done since it last told."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._reached = 0

    def see(self, statuses: Sequence[StageStatus]) -> None:
        """The stages are at these steps."""
        self.reach(min(status.step for status in statuses))

    def reach(self, step: int) -> None:
        """All stages have reached `step`."""
        if step > self._reached:
            self._advance(step - self._reached)
            self._reached = step


def measure(job: Job, advance: Callable[[int], None] = lambda num_steps: None) -> Run:
    """Carry out one run; `advance` hears of the steps as they are done."""
    config = job.config()
    prepared = prepare(config)
    done = _Counter(advance)
    if config.executor == "distributed":
        summary = _train_by_command_line(job, config)
    else:
        summary = run_simulated(prepared, on_status=done.see).summary
    done.reach(config.steps)
    return Run(
        row=job.row,
        seed=job.seed,
        steps=summary["steps"],
        test_error=summary["test_error"],
        train_loss=summary["train_loss"],
        wall_s=summary["wall_s"],
        num_parameters=sum(plan.num_parameters for plan in prepared.plans),
        synthesizer_parameters=sum(plan.source_parameters + plan.input_parameters for plan in prepared.plans),
        training_flops_per_sample=training_flops(prepared.plans, config) // rows_module.BATCH_SIZE,
        commit=commit() or "none",
        cpu=_cpu(),
        torch=torch.__version__,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def training_flops(plans: Iterable[StagePlan], config: Config) -> int:
    """Expected FLOPs of a step, in matrix products only.

    Stages: the forward once, the backward twice that, at the steps that are learned from. A dense synthesizer has
    two FLOPs for each parameter and sample, once to predict and three times to learn; so has a synthetic input, which
    is made at every step.
    """
    (probability,) = config.update_probability
    total = 0.0
    for plan in plans:
        learns = 0.0 if plan.source == "NoGradient" else probability
        predicting = 2 * plan.source_parameters * rows_module.BATCH_SIZE
        imagining = 2 * plan.input_parameters * rows_module.BATCH_SIZE
        total += plan.forward_flops * (1 + 2 * learns) + 4 * learns * predicting + (1 + 3 * learns) * imagining
    return round(total)


def pending_jobs(options: Options, done: set[tuple[str, int]]) -> list[Job]:
    """The (row, seed) pairs asked for that were not measured before.

    Raises:
        ValueError: there is no such row.
    """
    known = list(read_expected(EXPECTED))
    if unknown := sorted(set(options.rows) - set(known)):
        raise ValueError(f"rows must be among {', '.join(known)}; found {', '.join(unknown)}.")
    rows = options.rows or [row for row in known if options.full or not row.startswith("dni_paper")]
    pairs = [(row, seed) for seed in options.seeds for row in rows]
    return [Job(row, seed, options.steps) for row, seed in pairs if options.steps or (row, seed) not in done]


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
        console.print(
            f"{run.row} seed {run.seed}: {100 * run.test_error:.2f} % test error, {run.steps} steps, {run.wall_s:.1f} s"
        )

    code = carry_out_in_parts(
        jobs,
        _measure,
        parts="steps",
        num_parts=sum(job.config().steps for job in jobs),
        name=lambda job: f"{job.row} seed {job.seed}",
        on_result=on_run,
        num_workers=options.num_workers,
        console=console,
    )
    console.print(f"{len(jobs)} runs; results in {RESULTS.name}, then: table.py")
    return code


def _measure(job: Job, tell: Tell) -> None:
    tell(measure(job, tell))


def _train_by_command_line(job: Job, config: Config) -> dict[str, Any]:
    """The summary of the same run under `dni train`, which starts torchrun."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pipeline", "train", f"{FOLDER / 'config.py'}:{job.row}"]
        command += ["--seed", str(job.seed), "--steps", str(config.steps), "--name", "run", "--runs-dir", folder]
        ended = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            words = (ended.stdout + ended.stderr)[-4000:]
            raise RuntimeError(f"{' '.join(command)} ended with exit code {ended.returncode}:\n{words}")
        summary: dict[str, Any] = json.loads(Path(folder, "run", "summary.json").read_text())
    return summary


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()} ({os.cpu_count()} CPUs)"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
