"""What does a rank do that torchrun, or `dni train`, has started?

It agrees with the others on the run's folder and on where to go on, and says what became of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from pipeline.commands.bench import show_plan, show_times
from pipeline.commands.display import LiveDisplay, summary_table
from pipeline.configuration.config import Config
from pipeline.configuration.parsing import record_of, recorded_config
from pipeline.configuration.prepared import Prepared
from pipeline.errors import FailureRecord, LostStore, RemoteFailure
from pipeline.executors.agreement import agree_on_start, prepare_together
from pipeline.executors.allocator import keep_freed_memory
from pipeline.executors.attempt import (
    Start,
    find_folder,
    join_attempt,
    put_error_aside,
    remember_end,
    remember_folder,
    start_in,
    wait_end,
)
from pipeline.executors.distributed import run_rank
from pipeline.records import checkpoint
from pipeline.records.folder import choose_folder, make_folder
from pipeline.transports.control import Control
from pipeline.transports.placement import place

__all__ = ["resume_as_rank", "train_as_rank"]


def train_as_rank(config: Config, control: Control, *, reference: str, options: list[str]) -> int:
    join_attempt(control)
    given = os.environ.get("DNI_RUN_FOLDER")  # `dni train` has checked everything and made the folder
    folder = find_folder(control) if given is None else Path(given)
    if folder is not None and (folder / "config.json").exists():
        _, config = recorded_config(folder)
    config = replace(config, executor="distributed")  # whatever it says: torchrun has started the ranks
    prepared = prepare_together(config, control)

    def decide() -> Start:
        if folder is not None and (folder / "config.json").exists():
            return start_in(folder)
        new = folder or choose_folder(config=reference, name=config.name, runs_dir=config.runs_dir)
        remember_folder(control, new)
        make_folder(new, record_of(reference, options, prepared), exist_ok=folder is not None)
        return Start(folder=new)

    if given is None and config.max_restarts and os.environ.get("TORCHELASTIC_MAX_RESTARTS") == "0":
        Console(stderr=True, quiet=control.world.rank != 0).print(
            f"note: max_restarts has no effect here; say torchrun --max-restarts {config.max_restarts}", style="yellow"
        )
    return _run_as_rank(prepared, control, agree_on_start(control, decide))


def resume_as_rank(config: Config, control: Control, *, run: Path) -> int:
    join_attempt(control)

    def decide() -> Start:
        _, manifest = checkpoint.latest(run / "checkpoints")
        checkpoint.set_aside_after(run / "checkpoints", manifest.step)
        put_error_aside(run)
        return Start(folder=run, step=manifest.step)

    return _run_as_rank(prepare_together(config, control), control, agree_on_start(control, decide))


def _run_as_rank(prepared: Prepared, control: Control, start: Start) -> int:
    world, folder = control.world, start.folder
    console = Console(quiet=world.rank != 0)
    keep_freed_memory()
    if world.rank == 0:
        show_plan(folder, prepared, place(prepared.num_stages, world.world_size))
    if world.attempt:
        console.print(_attempt_line(world.attempt, start), highlight=False, soft_wrap=True)

    def say(error: BaseException) -> None:  # whoever failed first has left the stack trace in error.json
        record = error.record if isinstance(error, RemoteFailure) else FailureRecord.of(error, rank=world.rank)
        text = f"rank {world.rank}: stopped, because on rank {record.rank} {record.message}"
        print(text, file=sys.stderr, flush=True)

    def give_up(error: BaseException) -> None:
        say(error)
        os._exit(1)

    try:
        with LiveDisplay(console, steps=prepared.config.steps) as display:
            summary = run_rank(
                prepared, control, folder=folder, resume=start.step is not None, on_status=display.show, give_up=give_up
            )
    except Exception as error:
        say(error)
        return 1
    code = 0 if summary["status"] == "finished" else 1
    if world.rank == 0:
        show_times(folder)
        console.print(summary_table(summary, folder))
    with contextlib.suppress(LostStore):
        if world.rank == 0:
            remember_end(control, code)
        elif code:  # torchrun ends every rank when one ends like this, and rank 0 has to write before
            wait_end(control)
    return code


def _attempt_line(attempt: int, start: Start) -> str:
    where = "from the beginning, for there is no whole checkpoint," if start.step is None else f"at step {start.step:,}"
    return f"attempt {attempt + 1}: goes on {where} in {start.folder}"
