"""The command line: `dni`, which is also `python -m pipeline`.

Exit codes: 0 success, 2 a mistake in the call or configuration (nothing was started), 1 anything else.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TextIO

import torch
import tyro
from rich.console import Console

from pipeline import checkpoint
from pipeline.agreement import agree_on_start, prepare_together
from pipeline.allocator import keep_freed_memory
from pipeline.attempt import (
    Start,
    find_folder,
    how_it_ended,
    join_attempt,
    put_error_aside,
    remember_end,
    remember_folder,
    start_in,
    wait_end,
)
from pipeline.clock import WallClock
from pipeline.config import Config, Executor
from pipeline.control import Control, world_from_environment
from pipeline.display import LiveDisplay, plan_tables, summary_table
from pipeline.distributed import run_rank
from pipeline.errors import ConfigurationError, FailureRecord, LostStore, RemoteFailure, RunError
from pipeline.executor import Result
from pipeline.folder import RunRecord, choose_folder, make_folder, read_record
from pipeline.launch import launch, warm_up
from pipeline.loading import BUILT_IN, find_config, fingerprint
from pipeline.messages import Drain
from pipeline.placement import place
from pipeline.replay_command import replay_command
from pipeline.retention import best
from pipeline.run import Prepared, build_stage, prepare
from pipeline.simulate_command import simulate_command
from pipeline.timeline import write_timeline
from pipeline.training import find_executor

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
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE, end="")
        sys.exit(0 if words else 2)
    try:
        with _warnings_as_notes():
            code = _run(words)
    except RunError as error:  # the store has died before there was a run
        print(f"dni: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:  # once a run has started, it drains and saves instead
        print("dni: interrupted before anything was started", file=sys.stderr)
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
            if category is UserWarning and Path(filename).parent == Path(__file__).parent:
                Console(stderr=True).print(f"note: {message}", style="yellow", highlight=False, soft_wrap=True)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = note
        yield


def _train(words: list[str], control: Control | None) -> int:
    reference, options = _split_config("train", words)
    config = _parse_config(reference, options, command="train")
    if control is not None:
        return _train_as_rank(config, control, reference=reference, options=options)
    if config.executor == "distributed":
        warm_up(_be_rank)
    prepared = prepare(config)
    folder = choose_folder(config=reference, name=config.name, runs_dir=config.runs_dir)
    make_folder(folder, _record(reference, options, prepared))
    if config.executor == "distributed":
        return _launch(["train", reference, *options], prepared, folder)
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


def _resume(words: list[str], control: Control | None) -> int:
    """Go on from the last whole checkpoint of a run.

    For example: dni resume runs/quickstart-20260101-120000 --steps 3000
    """
    options = tyro.cli(_ResumeOptions, args=words, prog="dni resume", description=_resume.__doc__)
    record, config = _recorded_config(options.run)
    changes: dict[str, Any] = {name: value for name, value in vars(options).items() if value is not None}
    del changes["run"]
    config = replace(config, **changes)
    if control is not None:
        return _resume_as_rank(config, control, run=options.run)
    if config.executor == "distributed":
        warm_up(_be_rank)
    prepared = prepare(config)
    _check_resumable(prepared, options.run)
    put_error_aside(options.run)
    if record.sha256 != fingerprint(record.config):
        Console(stderr=True).print(f"note: {record.config} has changed since this run was started", style="yellow")
    if config.executor == "distributed":
        return _launch(["resume", *words], prepared, options.run)
    return _run_here(prepared, options.run, resume=True)


def _plan(words: list[str], control: Control | None) -> int:
    reference, options = _split_config("plan", words)
    config = _parse_config(reference, options, command="plan")
    prepared = prepare(config)
    num_ranks = prepared.num_ranks if config.executor == "distributed" else 1
    Console().print(plan_tables(prepared, place(prepared.num_stages, num_ranks)))
    return 0


@dataclass(frozen=True, kw_only=True)
class _ExportOptions:
    run: tyro.conf.Positional[Path]
    """The run's folder."""
    out: Path
    """File to write (torch.save)."""
    best: bool = False
    """Of the checkpoint with the lowest test loss, instead of the last one."""


def _export(words: list[str], control: Control | None) -> int:
    """Write the whole network's state dict, loadable into the unsplit model.

    For example: dni export runs/quickstart-20260101-120000 --out network.pt
    """
    options = tyro.cli(_ExportOptions, args=words, prog="dni export", description=_export.__doc__)
    _, config = _recorded_config(options.run)
    prepared = prepare(config)
    checkpoints = options.run / "checkpoints"
    if options.best:
        path, manifest, test_loss = best(checkpoints)
    else:
        (path, manifest), test_loss = checkpoint.latest(checkpoints), None
    stages = [build_stage(prepared, index, clock=WallClock()) for index in range(prepared.num_stages)]
    checkpoint.load(path, stages, manifest)
    for stage in stages:  # what the accumulators still hold belongs to the finished network
        stage.handle(Drain(step=manifest.step, finish=manifest.finished))
        stage.resume()
    torch.save(Result(summary={}, cut=prepared.cut).export(), options.out)
    loss = "" if test_loss is None else f", test loss {test_loss:.4g}"
    Console().print(f"wrote {options.out}: the network at step {manifest.step:,} of {options.run}{loss}")
    return 0


def _replay(words: list[str], control: Control | None) -> int:
    return replay_command(words, recorded_config=lambda run: _recorded_config(run)[1])


def _simulate_run(words: list[str], control: Control | None) -> int:
    return simulate_command(*_split_config("simulate", words))


_COMMANDS: dict[str, Callable[[list[str], Control | None], int]] = {
    "train": _train,
    "resume": _resume,
    "replay": _replay,
    "plan": _plan,
    "simulate": _simulate_run,
    "export": _export,
}


def _split_config(command: str, words: list[str]) -> tuple[str, list[str]]:
    if not words or words[0].startswith("-"):
        if words and words[0] in ("-h", "--help"):
            print(_USAGE, end="")
            sys.exit(0)
        raise ConfigurationError(
            f"say what to {command}: dni {command} CONFIG, with path/to/config.py:function or one of "
            f"{', '.join(sorted(BUILT_IN))}."
        )
    return words[0], words[1:]


def _parse_config(reference: str, options: list[str], *, command: str) -> Config:
    default = find_config(reference)
    description = f"For example: dni {command} {reference} --steps 300 --seed 1"
    quiet = int(os.environ.get("RANK", "0")) != 0
    return tyro.cli(
        Annotated[Config, tyro.conf.arg(name="")],
        default=default,
        args=options,
        prog=f"dni {command} {reference}",
        description=description,
        console_outputs=not quiet,
    )


def _recorded_config(run: Path) -> tuple[RunRecord, Config]:
    record = read_record(run)
    config = _parse_config(record.config, record.options, command="train")
    if record.at is not None:  # cut as it was: a cut by measured time may come out differently today
        config = replace(config, at=tuple(record.at), num_stages=len(record.at) + 1)
    return record, config


def _record(reference: str, options: list[str], prepared: Prepared) -> RunRecord:
    config, starts = prepared.config, prepared.outline.starts
    return RunRecord(
        config=reference,
        options=options,
        sha256=fingerprint(reference),
        num_threads=config.num_threads,
        at=None if starts is None else list(starts),
        settings={
            name: value for name, value in vars(config).items() if name not in ("model", "data", "loss", "source")
        },
    )


def _check_resumable(prepared: Prepared, run: Path) -> None:
    path, manifest = checkpoint.latest(run / "checkpoints")
    stages = [build_stage(prepared, index, clock=WallClock()) for index in range(prepared.num_stages)]
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
    try:
        with LiveDisplay(console, steps=prepared.config.steps) as display:
            execute = find_executor(prepared.config.executor)
            result = execute(prepared, folder=folder, resume=resume, on_status=display.show, stop_on_signal=True)
    except RunError as error:
        print(f"dni: {error}", file=sys.stderr)
        _say_how_to_go_on(folder)
        return 1
    write_timeline(folder)
    console.print(summary_table(result.summary, folder))
    return 0 if result.summary["status"] == "finished" else 1


def _train_as_rank(config: Config, control: Control, *, reference: str, options: list[str]) -> int:
    join_attempt(control)
    given = os.environ.get("DNI_RUN_FOLDER")  # `dni train` has checked everything and made the folder
    folder = find_folder(control) if given is None else Path(given)
    if folder is not None and (folder / "config.json").exists():
        _, config = _recorded_config(folder)
    config = replace(config, executor="distributed")  # whatever it says: torchrun has started the ranks
    prepared = prepare_together(config, control)

    def decide() -> Start:
        if folder is not None and (folder / "config.json").exists():
            return start_in(folder)
        new = folder or choose_folder(config=reference, name=config.name, runs_dir=config.runs_dir)
        remember_folder(control, new)
        make_folder(new, _record(reference, options, prepared), exist_ok=folder is not None)
        return Start(folder=new)

    if given is None and config.max_restarts and os.environ.get("TORCHELASTIC_MAX_RESTARTS") == "0":
        Console(stderr=True, quiet=control.world.rank != 0).print(
            f"note: max_restarts has no effect here; say torchrun --max-restarts {config.max_restarts}", style="yellow"
        )
    return _run_as_rank(prepared, control, agree_on_start(control, decide))


def _resume_as_rank(config: Config, control: Control, *, run: Path) -> int:
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
        write_timeline(folder)
        console.print(summary_table(summary, folder))
    with contextlib.suppress(LostStore):
        if world.rank == 0:
            remember_end(control, code)
        elif code:  # torchrun ends every rank when one ends like this, and rank 0 has to write before
            wait_end(control)
    return code


def _attempt_line(attempt: int, start: Start) -> str:
    where = "from the beginning, for there was no checkpoint yet," if start.step is None else f"at step {start.step:,}"
    return f"attempt {attempt + 1}: goes on {where} in {start.folder}"


def _launch(arguments: list[str], prepared: Prepared, folder: Path) -> int:
    Console().print(f"starting {prepared.num_ranks} processes for {folder}", highlight=False)
    max_restarts = prepared.config.max_restarts
    code = launch(_be_rank, [str(folder), *arguments], num_ranks=prepared.num_ranks, max_restarts=max_restarts)
    if (folder / "error.json").exists():
        _say_how_to_go_on(folder)
    return code


def _be_rank(folder: str, *words: str) -> None:
    """What a process does that `dni train` has started."""
    os.environ["DNI_RUN_FOLDER"] = folder
    main(words)


def _say_how_to_go_on(folder: Path) -> None:
    print(f"dni: {folder / 'error.json'} has the stack trace of the first failure", file=sys.stderr)
    with contextlib.suppress(ConfigurationError):  # there may be no checkpoint yet
        _, manifest = checkpoint.latest(folder / "checkpoints")
        exact = "exactly" if manifest.exact else "not bit for bit"
        print(
            f"dni: the last checkpoint is of step {manifest.step:,}; go on with: dni resume {folder} (resumes {exact})",
            file=sys.stderr,
        )
