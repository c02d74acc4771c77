"""What do `dni train` and `dni resume` do?"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import tyro
from rich.console import Console

from pipeline.clock import WallClock
from pipeline.commands.bench import show_plan, show_times
from pipeline.commands.display import LiveDisplay, summary_table
from pipeline.commands.rank_command import resume_as_rank, train_as_rank
from pipeline.configuration.config import Executor
from pipeline.configuration.loading import fingerprint
from pipeline.configuration.parsing import parse_config, record_of, recorded_config, split_config
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import build_stage, prepare
from pipeline.errors import ConfigurationError, RunError
from pipeline.executors.allocator import keep_freed_memory
from pipeline.executors.attempt import put_error_aside
from pipeline.executors.launch import launch, warm_up
from pipeline.executors.training import find_executor
from pipeline.records import checkpoint
from pipeline.records.folder import choose_folder, make_folder
from pipeline.transports.control import Control

__all__ = ["BeRank", "resume_command", "train_command"]

BeRank: TypeAlias = Callable[..., None]
"""What a started process does: takes the run's folder and the words of the command."""


def train_command(words: list[str], control: Control | None, *, be_rank: BeRank) -> int:
    """Train by a configuration, from the beginning or, as a rank that was started again, from the last checkpoint."""
    reference, options = split_config("train", words)
    config = parse_config(reference, options, command="train")
    if control is not None:
        return train_as_rank(config, control, reference=reference, options=options)
    if config.executor == "distributed":
        warm_up(be_rank)
    prepared = prepare(config)
    folder = choose_folder(config=reference, name=config.name, runs_dir=config.runs_dir)
    make_folder(folder, record_of(reference, options, prepared))
    if config.executor == "distributed":
        return _launch(be_rank, ["train", reference, *options], prepared, folder)
    return _run_here(prepared, folder, resume=False)


@dataclass(frozen=True, kw_only=True)
class _ResumeOptions:
    run: tyro.conf.Positional[Path]
    """The run's folder."""
    steps: int | None = None
    """Train up to this many steps altogether, instead of as many as the run was started with."""
    executor: Executor | None = None
    """Who drives the stages from now on, instead of the executor the run was started with."""
    num_ranks: int | None = None
    """Processes of the distributed executor from now on."""


def resume_command(words: list[str], control: Control | None, *, be_rank: BeRank) -> int:
    """Go on from the last whole checkpoint of a run.

    For example: dni resume runs/quickstart-20260101-120000 --steps 3000
    """
    options = tyro.cli(_ResumeOptions, args=words, prog="dni resume", description=resume_command.__doc__)
    record, config = recorded_config(options.run)
    changes: dict[str, Any] = {name: value for name, value in vars(options).items() if value is not None}
    del changes["run"]
    config = replace(config, **changes)
    if control is not None:
        return resume_as_rank(config, control, run=options.run)
    if config.executor == "distributed":
        warm_up(be_rank)
    prepared = prepare(config)
    _check_resumable(prepared, options.run)
    put_error_aside(options.run)
    if record.sha256 != fingerprint(record.config):
        Console(stderr=True).print(f"note: {record.config} has changed since this run was started", style="yellow")
    if config.executor == "distributed":
        return _launch(be_rank, ["resume", *words], prepared, options.run)
    return _run_here(prepared, options.run, resume=True)


def _check_resumable(prepared: Prepared, run: Path) -> None:
    path, manifest = checkpoint.latest(run / "checkpoints")
    copied = prepared.copied()  # a checkpoint from after events makes other layers of them
    stages = [build_stage(copied, index, clock=WallClock()) for index in range(copied.num_stages)]
    checkpoint.load(path, stages, manifest)
    if manifest.step >= prepared.config.steps:
        raise ConfigurationError(
            f"nothing is left to do: {run} has taken {manifest.step} of {prepared.config.steps} steps. "
            f"To go on, ask for more: dni resume {run} --steps {2 * manifest.step}"
        )
    checkpoint.set_aside_after(run / "checkpoints", manifest.step)


def _run_here(prepared: Prepared, folder: Path, *, resume: bool) -> int:
    console = Console()
    keep_freed_memory()
    show_plan(folder, prepared, [0] * prepared.num_stages)
    try:
        with LiveDisplay(console, steps=prepared.config.steps) as display:
            execute = find_executor(prepared.config.executor)
            result = execute(prepared, folder=folder, resume=resume, on_status=display.show, stop_on_signal=True)
    except RunError as error:
        print(f"dni: {error}", file=sys.stderr)
        _say_how_to_go_on(folder)
        return 1
    show_times(folder)
    console.print(summary_table(result.summary, folder))
    return 0 if result.summary["status"] == "finished" else 1


def _launch(be_rank: BeRank, arguments: list[str], prepared: Prepared, folder: Path) -> int:
    Console().print(f"starting {prepared.num_ranks} processes for {folder}", highlight=False)
    max_restarts = prepared.config.max_restarts
    code = launch(be_rank, [str(folder), *arguments], num_ranks=prepared.num_ranks, max_restarts=max_restarts)
    if (folder / "error.json").exists():
        _say_how_to_go_on(folder)
    return code


def _say_how_to_go_on(folder: Path) -> None:
    print(f"dni: {folder / 'error.json'} has the stack trace of the first failure", file=sys.stderr)
    with contextlib.suppress(ConfigurationError):  # there may be no checkpoint yet
        _, manifest = checkpoint.latest(folder / "checkpoints")
        exact = "exactly" if manifest.exact else "not bit for bit"
        print(
            f"dni: the last checkpoint is of step {manifest.step:,}; go on with: dni resume {folder} (resumes {exact})",
            file=sys.stderr,
        )
