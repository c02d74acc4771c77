"""`dni replay`: the recorded order of a run again, on one thread; are the weights equal?"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from pipeline.commands.display import LiveDisplay
from pipeline.configuration.parsing import recorded_config
from pipeline.configuration.run import prepare
from pipeline.errors import ConfigurationError, RunError
from pipeline.records.order import recorded_steps
from pipeline.replay.replay import Replay

__all__ = ["replay_command"]


@dataclass(frozen=True, kw_only=True)
class _Options:
    run: tyro.conf.Positional[Path]
    """The run's folder; also of one that has failed, was interrupted or killed."""
    start: Annotated[int, tyro.conf.arg(name="from")] = 0
    """Begin from the checkpoint of this step, instead of the initial weights."""
    until: int | None = None
    """Stop before this step is forwarded anywhere."""
    debug: bool = False
    """Halt in the debugger (breakpoint()) there, or, of a run that has failed, before the message that it failed with;
    then go on."""


def replay_command(words: list[str]) -> int:
    """Run the recorded order of a run again, on one thread, and compare the weights with its checkpoints, bit for bit.

    For example:
      dni replay runs/quickstart-20260101-120000
      dni replay runs/quickstart-20260101-120000 --from 500 --until 1000
      dni replay runs/quickstart-20260101-120000 --debug     (n and s go through the step that failed)

    Exit code: 0 if all weights are equal (with --until also if there was nothing to compare with), 1 if some differ,
    could not be compared, or a stage failed as it did in the run.
    """
    options = tyro.cli(_Options, args=words, prog="dni replay", description=replay_command.__doc__)
    if options.until is not None and options.until <= options.start:
        raise ConfigurationError(
            f"--until must be after --from, got {options.until} and {options.start}: there would be nothing to replay."
        )
    config = recorded_config(options.run)[1]
    config = replace(config, steps=max(config.steps, recorded_steps(options.run)))  # it may have gone on for longer
    replay = Replay(prepare(config), options.run, start=options.start)
    if options.debug and options.until is None and replay.failure is None:
        raise ConfigurationError(
            f"--debug halts before the message that a run has failed with, and {options.run} has not failed. "
            "Say before which step it is to halt: --until N."
        )
    console = Console()
    try:
        if options.debug:
            _run_in_debugger(replay, options.until)
        else:
            with LiveDisplay(console, steps=options.start + replay.num_steps) as display:
                replay.run(until=options.until, on_status=display.show)
    except RunError as error:
        _report(console, replay, options)
        print(f"dni: {error}", file=sys.stderr)
        return 1
    return _report(console, replay, options)


def _run_in_debugger(replay: Replay, until: int | None) -> None:
    if until is not None:
        replay.run(until=until)
        breakpoint()  # `replay` has the stages; set breakpoints in your modules, and c
    replay.run(before_failure=breakpoint)


def _report(console: Console, replay: Replay, options: _Options) -> int:
    """Say what has come out; the exit code."""
    lines = [f"replayed {options.run} on one thread: {replay.num_handled:,} messages", *replay.comparison.lines()]
    lines += [f"not to the end of the run: {line}" for line in replay.ends()]
    if replay.failure is not None:
        lines.append(f"the run itself had failed: {replay.failure.message}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    comparison = replay.comparison
    wrong = comparison.refused or comparison.differences or comparison.damaged
    return 0 if comparison.equal or (options.until is not None and not wrong) else 1
