"""The command `dni simulate`: how would a run, or its method in a long chain, spend its time?"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.commands.rehearsal_tables import comparison_table, rehearsal_tables
from pipeline.configuration.config import Config
from pipeline.configuration.loading import find_config
from pipeline.configuration.methods import MethodName, by_name
from pipeline.configuration.parsing import split_config
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import prepare
from pipeline.errors import ConfigurationError, RunError
from pipeline.records.picture import check_picture, choose_rows, draw_timeline
from pipeline.records.summary import read_stages
from pipeline.virtual_time.costs import CostModel, measured_costs
from pipeline.virtual_time.equal import equal_stages
from pipeline.virtual_time.recursion import why_not_recursive
from pipeline.virtual_time.rehearsal import Rehearsal, choose_way, rehearse

__all__ = ["simulate_command"]

_EXAMPLES = """\
For example:
  dni simulate {config}
  dni simulate {config} --compare --stages 32 --steps 256
  dni simulate {config} --method 1f1b --num-microbatches 8 --costs.slow 2 2.5 --picture timeline.png
  dni simulate {config} --stages 10000 --method decoupled --steps 1000 --costs.jitter 0.3
  dni simulate {config} --costs-from runs/quickstart-20260101-120000 --costs.message-s 0.0002
"""

_COMPARED: tuple[MethodName, ...] = ("backprop", "gpipe", "1f1b", "pipedream", "features-replay", "decoupled")
"""DDG has the times of PipeDream."""
_DRAWN_MICROBATCHES = 24


@dataclass(frozen=True, kw_only=True)
class _Options:
    config: Annotated[Config, tyro.conf.arg(name="")]
    stages: int | None = None
    """Simulate a chain of this many equal stages, each the mean of the configuration's, with its method."""
    method: MethodName | None = None
    """Simulate this method instead of the configuration's own."""
    num_microbatches: int = 8
    """With a method that empties the chain for updates: microbatches from one to the next."""
    compare: bool = False
    """Put the known methods beside the configuration's own."""
    by: Literal["auto", "stages", "recursion", "mathematics"] = "auto"
    """By what means. stages: the stages themselves, whose operations only take their time. recursion: the times alone,
    for very long chains in fixed order. mathematics: the stages, which train as well; nothing is written. auto: stages,
    or the recursion where it can be used and playing them would take long."""
    costs_from: Path | None = None
    """Folder of a finished run: each stage's operations cost what they took there."""
    picture: Path | None = None
    """Draw the timeline into this file (png, pdf, svg)."""


def simulate_command(words: list[str]) -> int:
    """Simulate a configuration; the exit code."""
    reference, given = split_config("simulate", words)
    options = tyro.cli(
        _Options,
        default=_Options(config=find_config(reference)),
        args=given,
        prog=f"dni simulate {reference}",
        description="Play a run in virtual time: throughput beside the method's bound, utilisation, staleness, memory "
        "and bytes.\n\n" + _EXAMPLES.format(config=reference),
    )
    _check(options)
    console = Console()
    try:
        if options.compare:
            console.print(comparison_table(_compare(options, console)))
        else:
            _simulate_one(options, console)
    except RunError as error:  # with mathematics, training may fail
        print(f"dni: {error}", file=sys.stderr)
        return 1
    return 0


def _check(options: _Options) -> None:
    if options.by == "mathematics" and options.stages is not None:
        raise ConfigurationError("--stages makes a chain without content, so there is no mathematics in it.")
    if options.compare and (options.picture is not None or options.method is not None):
        raise ConfigurationError("--compare simulates several methods; leave out --picture and --method, or --compare.")
    if options.stages is not None and options.stages < 2:
        raise ConfigurationError(f"--stages must be at least 2, got {options.stages}.")
    if options.picture is not None:
        check_picture(options.picture)


def _simulate_one(options: _Options, console: Console) -> None:
    prepared = _prepare(options, _with_costs(options), options.method)
    drawn = choose_rows(prepared.num_stages) if options.picture is not None else ()
    rehearsal = _rehearse(options, prepared, console, drawn=drawn)
    console.print(rehearsal_tables(rehearsal))
    if options.picture is not None:
        done_s = rehearsal.timing.done_s
        until_s = float(done_s[_DRAWN_MICROBATCHES - 1]) if len(done_s) >= _DRAWN_MICROBATCHES else None
        draw_timeline(
            rehearsal.timing.events,
            options.picture,
            until_s=rehearsal.timing.end_s if until_s is None else until_s,
            title=f"{options.method or 'as configured'}: {prepared.num_stages:,} stages",
        )
        console.print(f"picture      {options.picture}", highlight=False)


def _compare(options: _Options, console: Console) -> dict[str, Rehearsal]:
    config = _with_costs(options)
    data = config.data()  # loaded once
    config = replace(config, data=lambda: data)
    found: dict[str, Rehearsal] = {}
    for name in (None, *_COMPARED):
        prepared = _prepare(options, config, name)
        found["as configured" if name is None else name] = _rehearse(options, prepared, console)
    return found


def _with_costs(options: _Options) -> Config:
    config = options.config
    if options.costs_from is None:
        return config
    return replace(config, costs=measured_costs(config.costs, read_stages(options.costs_from)))


def _prepare(options: _Options, config: Config, method: MethodName | None) -> Prepared:
    """The run, or a chain of equal stages, with the method asked for."""
    if options.stages is None:
        return prepare(_with_method(options, config, method))
    # The costs are those of the chain, not of the run that its stages are taken from.
    chain = equal_stages(prepare(_with_method(options, replace(config, costs=CostModel()), method)), options.stages)
    settings = _with_method(options, replace(chain.config, costs=config.costs), method)
    settings.costs.check(options.stages)
    return replace(chain, config=settings)


def _with_method(options: _Options, config: Config, method: MethodName | None) -> Config:
    return config if method is None else by_name(method, config, num_microbatches=options.num_microbatches)


def _rehearse(options: _Options, prepared: Prepared, console: Console, *, drawn: Collection[int] = ()) -> Rehearsal:
    way = choose_way(prepared) if options.by == "auto" else options.by
    if way == "recursion" and (reason := why_not_recursive(prepared)):
        raise ConfigurationError(f"the recursion cannot compute this run: {reason}. Use --by stages.")
    columns = (TextColumn("microbatch"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=prepared.config.steps)
        return rehearse(prepared, way=way, drawn=drawn, on_step=lambda step: progress.update(task, completed=step))
