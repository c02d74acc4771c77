"""The command line: `dni`, which is also `python -m pipeline`.

Exit codes: 0 success, 2 a mistake in the call or configuration (nothing was started), 1 anything else.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

from rich.console import Console

from pipeline.commands.display import plan_tables
from pipeline.commands.export_command import export_command
from pipeline.commands.probe_command import probe_command
from pipeline.commands.replay_command import replay_command
from pipeline.commands.report_command import report_command
from pipeline.commands.simulate_command import simulate_command
from pipeline.commands.train_command import resume_command, train_command
from pipeline.configuration.loading import BUILT_IN
from pipeline.configuration.parsing import parse_config, split_config
from pipeline.configuration.run import prepare
from pipeline.errors import ConfigurationError, RunError
from pipeline.executors.attempt import how_it_ended, remember_end
from pipeline.transports.control import Control, world_from_environment
from pipeline.transports.placement import place

__all__ = ["main"]

_USAGE = f"""\
usage: dni COMMAND ...

Train a network as stages that do not wait for each other.

  dni train  CONFIG [--options]      train; CONFIG is path/to/config.py:function, or built in: {", ".join(BUILT_IN)}
  dni resume RUN [--options]         go on from the last whole checkpoint of a run folder
  dni replay RUN [--from N] [--until N]   the recorded order again, on one thread: are the weights equal?
  dni plan   CONFIG [--options]      show the stages and boundaries, or why they are impossible; start nothing
  dni simulate CONFIG [--options]    virtual time: throughput beside the method's bound, utilisation, staleness
  dni export RUN --out FILE [--best] write the whole network's state dict, loadable into the unsplit model:
                                     of the last checkpoint, or of the one with the lowest test loss
  dni probe RUN... [--what ...]      curvature, representations, Hessians and landscape at a run's checkpoints
  dni report RUN... [--out DIR]      runs side by side, seeds together: one HTML page, and its pictures as PNG

examples:
  dni train quickstart
  dni train quickstart --steps 300 --seed 1 --sync.probability 0.5
  dni train experiments/jaderberg2017_synthetic/config.py:cdni_5 --executor simulate
  torchrun --nproc-per-node 4 -m pipeline train quickstart
  dni COMMAND --help                 the options of a command (of a configuration: dni train CONFIG --help)
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    helps = ("-h", "--help")
    if not words or words[0] in helps or (words[0] in _CONFIGURED and words[1:2] and words[1] in helps):
        print(_USAGE, end="")
        sys.exit(0 if words else 2)
    try:
        with _warnings_as_notes():
            code = _run(words)
    except RunError as error:  # the store has died before there was a run
        print(f"dni: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:  # while stages train, they drain and save instead
        print("dni: interrupted", file=sys.stderr)
        code = 1
    sys.exit(code)


def _run(words: list[str]) -> int:
    """Run one command. A rank of a run which an earlier attempt has ended (a mistake in the configuration, a signal)
    does nothing: torchrun starts ranks again whatever they ended with."""
    world = world_from_environment()
    control = None if world is None else Control(world)
    if control is not None and (ended := how_it_ended(control)) is not None:
        return ended
    speaks = int(os.environ.get("RANK", "0")) == 0
    try:
        command = _COMMANDS.get(words[0])
        if command is None:
            raise ConfigurationError(f"there is no command {words[0]!r}; there are: {', '.join(_COMMANDS)}.")
        return command(words[1:], control)
    except (ConfigurationError, SystemExit) as error:
        if speaks and isinstance(error, ConfigurationError):
            Console(stderr=True).print(f"dni: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        code = 2 if isinstance(error, ConfigurationError) else int(error.code or 0)
        if control is not None:
            remember_end(control, code)
        return code


@contextlib.contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Inside the block, what this package warns of is one line, without the place in the code that said it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("default", category=UserWarning, module=r"pipeline\.")
        show = warnings.showwarning

        def note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if category is UserWarning and Path(__file__).parents[1] in Path(filename).parents:
                Console(stderr=True).print(f"note: {message}", style="yellow", highlight=False, soft_wrap=True)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = note
        yield


def _plan(words: list[str]) -> int:
    reference, options = split_config("plan", words)
    config = parse_config(reference, options, command="plan")
    prepared = prepare(config)
    num_ranks = prepared.num_ranks if config.executor == "distributed" else 1
    Console().print(plan_tables(prepared, place(prepared.num_stages, num_ranks)))
    return 0


def _be_rank(folder: str, *words: str) -> None:
    """What a process does that `dni train` has started."""
    os.environ["DNI_RUN_FOLDER"] = folder
    main(words)


_COMMANDS: dict[str, Callable[[list[str], Control | None], int]] = {
    "train": partial(train_command, be_rank=_be_rank),
    "resume": partial(resume_command, be_rank=_be_rank),
    "replay": lambda words, control: replay_command(words),
    "plan": lambda words, control: _plan(words),
    "simulate": lambda words, control: simulate_command(words),
    "export": lambda words, control: export_command(words),
    "probe": lambda words, control: probe_command(words),
    "report": lambda words, control: report_command(words),
}
_CONFIGURED = ("train", "plan", "simulate")
"""Commands of which a configuration says what the options are."""
