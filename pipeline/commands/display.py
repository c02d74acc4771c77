"""What does a person at the terminal see?"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pipeline.configuration.config import Config, per_stage
from pipeline.configuration.curvature import describe_curvature
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.timeline import MOST_REHEARSED, foreseen_steps
from pipeline.learners.idle import normalisations
from pipeline.records.monitor import StageStatus
from pipeline.transports.placement import Choice, choose_direct, device_of, places_here, planned

__all__ = ["LiveDisplay", "plan_tables", "summary_table"]

_RULES = {"linear": "k times the rate", "sqrt": "sqrt(k) times the rate"}
_BLOCK_COLUMNS: dict[str, JustifyMethod] = {
    "stage": "right",
    "block": "left",
    "params": "right",
    "cadence": "left",
}


class LiveDisplay:
    """Progress of every stage while a run goes on; use as a context manager.

    On a terminal, a table that is drawn over; elsewhere, a line every ten seconds, and one whenever a rank falls silent
    or is heard again.

    Args:
        console: where to draw.
        steps: of the whole run.
    """

    def __init__(self, console: Console, *, steps: int) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        )
        self._task = self._progress.add_task("steps", total=steps)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._last_line_s = time.monotonic()
        self._lock = threading.Lock()
        self._last_drawn_s = 0.0
        self._silent: set[int] = set()

    def __enter__(self) -> LiveDisplay:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, statuses: Sequence[StageStatus]) -> None:
        """Draw the present."""
        now_s = time.monotonic()
        with self._lock:
            self._progress.update(self._task, completed=min(status.step for status in statuses))
            if self._console.is_terminal and now_s - self._last_drawn_s > 0.2:
                self._last_drawn_s = now_s
                notices = [Text(line, style="yellow") for line in [*_silences(statuses).values(), *_busy(statuses)]]
                self._live.update(Group(_status_table(statuses), *notices, self._progress), refresh=True)
            elif not self._console.is_terminal:
                self._print_changes(_silences(statuses))
                if now_s - self._last_line_s > 10.0:
                    self._last_line_s = now_s
                    for line in (_status_line(statuses), *_busy(statuses)):
                        self._console.print(line, highlight=False)

    def _print_changes(self, silences: Mapping[int, str]) -> None:
        for rank in silences.keys() - self._silent:
            self._console.print(silences[rank], highlight=False)
        for rank in self._silent - silences.keys():
            self._console.print(f"rank {rank} is heard again", highlight=False)
        self._silent = set(silences)


def summary_table(summary: Mapping[str, Any], folder: Path) -> RenderableType:
    """The end of a run: a row per stage, the result, where the files are and how to look at them."""
    table = Table(title=f"{summary['status']}: {summary['steps']:,} steps, {summary['num_stages']} stages")
    headings = ("stage", "params", "updates", "fresh", "wait", "drop", "stale", "source\nloss", "sync\ncosine")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in summary["stages"]:
        total_s = stage["busy_s"] + stage["wait_s"]
        fresh_s = stage["busy_s"] - stage["dropped_s"]
        table.add_row(
            str(stage["index"]),
            f"{stage['num_parameters']:,}",
            f"{stage['updates']:,}",
            *(f"{s / total_s:.0%}" if total_s else "-" for s in (fresh_s, stage["wait_s"], stage["dropped_s"])),
            _number(stage["staleness_mean"]),
            _number(stage["source_loss"]),
            _number(stage["gradient_cosine"]),
        )
    lines = [
        f"train loss {_number(summary['train_loss'])}, test loss {_number(summary['test_loss'])}, "
        f"test accuracy {_number(summary['test_accuracy'])}",
        f"{summary['samples_per_s']:,.0f} samples/s, {summary['wall_s']:.1f} s, {summary['world_size']} process(es)",
        f"run folder   {folder}",
        f"TensorBoard  tensorboard --logdir {folder / 'tensorboard'}",
    ]
    if summary["status"] == "interrupted":
        exact = "exactly" if summary["resume_exact"] else "not bit for bit"
        lines.append(f"go on        dni resume {folder}   (resumes {exact})")
    return Group(table, *lines)


def plan_tables(prepared: Prepared, placement: Sequence[int]) -> RenderableType:
    """The stages and boundaries of a run that has not started; `placement` is the process of each stage."""
    config = prepared.config
    lines = [
        f"executor {config.executor}, arrival {config.arrival}, {config.steps:,} steps, seed {config.seed}",
        f"sync {config.sync}",
        f"update probability {_listed(config.update_probability)}, optimiser {config.optimizer}",
    ]
    drawing = [plan.index for plan in prepared.plans if plan.draws]
    if config.executor == "threads" and drawing:
        lines.append(f"stages that draw random numbers (dropout), and take turns to: {_listed(drawing)}")
    if prepared.takes_every[-1] > 1:
        lines.append(f"clocks: of so many steps a stage takes the last: {_listed(prepared.takes_every)}")
    if config.rate_rule != "none":
        lines.append(f"learning rate of an update that holds k microbatches: {_RULES[config.rate_rule]}")
    lines += _participation_lines(prepared) + _event_lines(prepared) + describe_curvature(config, prepared.cut)
    tables = [_block_table(prepared)] if config.blocks or config.participation else []
    tables += [_event_table(prepared)] if config.events else []
    choices = planned(config, placement)
    boundaries = _boundary_table(prepared, [choice.kind for choice in choices])
    lines += _error_lines(prepared, placement) + _input_lines(prepared, placement)
    return Group(_stage_table(prepared, placement), *tables, boundaries, *lines, *_edge_lines(choices))


def _stage_table(prepared: Prepared, placement: Sequence[int]) -> Table:
    table = Table(title=f"{prepared.num_stages} stages; MFLOP of a forward, KiB that a held microbatch keeps")
    cadences = per_stage(prepared.config.cadence, prepared.num_stages, name="cadence")
    for heading in ("stage", "place", "params", "MFLOP", "held KiB", "cadence"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("input", "output"):
        table.add_column(heading)
    for plan in prepared.plans:
        table.add_row(
            str(plan.index),
            _place(prepared.config, plan.index, rank=placement[plan.index]),
            f"{plan.num_parameters:,}",
            f"{plan.forward_flops / 1e6:,.2f}",
            f"{plan.held_bytes / 1024:,.0f}",
            str(cadences[plan.index]),
            "\n".join(plan.input_shapes),
            "\n".join(plan.output_shapes),
        )
    return table


def _block_table(prepared: Prepared) -> Table:
    """What has a cadence of its own; a stage that is one block keeps the one in the table of stages."""
    table = Table(title="blocks; a cadence counts the microbatches that the stage gets")
    sparse = prepared.config.participation is not None
    for heading, justify in _BLOCK_COLUMNS.items():
        table.add_column(heading, justify=justify)
    if sparse:
        table.add_column("learns at", justify="right")
    for index, stage in enumerate(prepared.blocks):
        shares = prepared.shares(index).blocks
        names = prepared.cut.names(index)
        learned = {names[name]: p for name, p in prepared.cut.stages[index].named_parameters()}
        for block in stage.blocks:
            count = sum(piece.of(learned[piece.parameter]).numel() for piece in block.pieces)
            drifts = ", drifts" if block.name in stage.drifting else ""
            share = [f"{shares[block.name]:.0%} of steps"] if sparse else []
            table.add_row(str(index), block.name, f"{count:,}", f"{stage.cadences[block.name]}{drifts}", *share)
    return table


def _participation_lines(prepared: Prepared) -> list[str]:
    """Who learns, what is left out for it, and what BatchNorm makes of that."""
    config, stages = prepared.config, prepared.cut.stages
    if config.participation is None:
        return []
    pulls = [f"{prepared.shares(index).pulls:.0%}" for index in range(len(stages))]
    lines = [f"participation {config.participation}", f"steps at which a stage pulls back: {', '.join(pulls)}"]
    if count := sum(len(normalisations(stage)) for stage in stages):
        lines.append(f"{count} BatchNorm layer(s), at steps at which they pause: {config.idle_batch_norm}")
    return lines


def _event_table(prepared: Prepared) -> Table:
    """What events will make of the stages."""
    table = Table(title="events, tried out on copies with random gradients; kFLOP of a sample's forward")
    for heading in ("step", "stage"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what")
    for heading in ("params", "kFLOP"):
        table.add_column(heading, justify="right", no_wrap=True)
    for change in prepared.changes:
        before, after = change.flops
        table.add_row(
            "?" if change.step is None else f"{change.step:,}",
            str(change.stage),
            change.what,
            _from_to(*(f"{count:,}" for count in change.parameters)),
            _from_to(f"{before / 1e3:,.1f}", f"{after / 1e3:,.1f}"),
        )
    return table


def _event_lines(prepared: Prepared) -> list[str]:
    """When each event is due."""
    config = prepared.config
    steps = foreseen_steps(
        config.events, steps=config.steps, steps_per_epoch=prepared.outline.steps_per_epoch, seed=config.seed
    )
    due = [_due(steps.get(place)) for place in range(len(config.events))]
    lines = [f"event {event.label}: {event.when}, {own}" for event, own in zip(config.events, due, strict=True)]
    if len({step for own in steps.values() for step in own}) > MOST_REHEARSED:
        lines.append(f"of the steps with events that change shapes, the first {MOST_REHEARSED} were tried out")
    return lines


def _due(steps: Sequence[int] | None) -> str:
    """How often, and when first; None: that is not known beforehand."""
    if steps is None:
        return "when it comes to it"
    if not steps:
        return "never"
    return f"once, at step {steps[0]:,}" if len(steps) == 1 else f"{len(steps)} times, first at step {steps[0]:,}"


def _from_to(before: str, after: str) -> str:
    return before if before == after else f"{before} > {after}"


def _place(config: Config, stage: int, *, rank: int) -> str:
    """Where a stage runs, as far as it is known before the ranks are there."""
    match config.executor:
        case "distributed":
            return f"rank {rank}"
        case "threads":
            device = device_of(config.device, local_rank=stage)
            return f"thread {stage}" + (f", {device}" if device.type == "cuda" else "")
        case "simulate":
            return "simulated"


def _boundary_table(prepared: Prepared, kinds: Sequence[str]) -> Table:
    """Where gradients come from and how activations travel; the loss is the last stage's source."""
    table = Table(title="boundaries; KiB of an activation")
    bound = "delay" if prepared.config.arrival == "fixed" else "max in flight"
    for heading in ("boundary", "source", "its params", "KiB", bound, "edge"):
        table.add_column(heading, justify="left" if heading == "source" else "right", no_wrap=True)
    for lower, (plan, waits) in enumerate(zip(prepared.plans, [*prepared.bounds, None], strict=True)):
        last = waits is None
        table.add_row(
            f"{lower}-{'loss' if last else lower + 1}",
            plan.source,
            f"{plan.source_parameters:,}",
            f"{plan.activation_bytes / 1024:,.1f}",
            "-" if last else str(waits),
            "-" if last else kinds[lower],
        )
    return table


def _edge_lines(choices: Sequence[Choice]) -> list[str]:
    """Why each kind of edge between ranks; where those will be is not known before they are there."""
    reasons = sorted({f"{choice.kind} ({choice.why})" for choice in choices if choice.kind != "in process"})
    return [f"edges, if all ranks are on this host: {', '.join(reasons)}"] if reasons else []


def _error_lines(prepared: Prepared, placement: Sequence[int]) -> list[str]:
    """The edges from the last stage straight to those whose sources ask for what the loss says."""
    lines = []
    for listener in prepared.listeners:
        ends = prepared.num_stages - 1, listener.stage
        kib = prepared.plans[listener.stage].error_bytes / 1024
        parts = " and ".join(sorted(listener.parts))
        lines.append(
            f"  {ends[0]}-{ends[1]}: {parts} at the output, {kib:,.2f} KiB ({_kind(prepared, placement, ends)})"
        )
    return ["told by the last stage", *lines] if lines else []


def _input_lines(prepared: Prepared, placement: Sequence[int]) -> list[str]:
    """The edges from the first stage straight to those with synthetic inputs, and what those add to the network."""
    kib = prepared.plans[0].input_bytes / 1024
    lines = [
        f"  0-{stage}: the network's input, {kib:,.1f} KiB ({_kind(prepared, placement, (0, stage))}); "
        f"{type(prepared.inputs[stage - 1]).__name__}, {prepared.plans[stage].input_parameters:,} parameters"
        for stage in prepared.input_listeners
    ]
    return ["stages that run on synthetic inputs, told by the first stage", *lines] if lines else []


def _kind(prepared: Prepared, placement: Sequence[int], ends: tuple[int, int]) -> str:
    places = places_here(prepared.config, placement)
    return choose_direct(prepared.config, placement, places, sender=ends[0], receiver=ends[1]).kind


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _status_table(statuses: Sequence[StageStatus]) -> Table:
    table = Table()
    for heading in ("stage", "step", "loss", "source loss", "samples/s", "waiting", "staleness"):
        table.add_column(heading, justify="right", min_width=9)
    for status in statuses:
        table.add_row(
            str(status.stage),
            f"{status.step:,}",
            _number(status.loss),
            _number(status.source_loss),
            f"{status.samples_per_s:,.0f}",
            f"{status.waiting_share:.0%}",
            _number(status.staleness),
        )
    return table


def _status_line(statuses: Sequence[StageStatus]) -> str:
    first, last = statuses[0], statuses[-1]
    return f"step {last.step:,}: loss {_number(last.loss)}, {first.samples_per_s:,.0f} samples/s"


def _silences(statuses: Sequence[StageStatus]) -> dict[int, str]:
    """A line for every rank that is silent."""
    silent = [status for status in statuses if status.silent_s]
    lines = {}
    for rank in sorted({status.rank for status in silent}):
        held = [status for status in silent if status.rank == rank]
        stages = ", ".join(str(status.stage) for status in held)
        lines[rank] = f"rank {rank} (stage {stages}) has been silent for {held[0].silent_s:.0f} s"
    return lines


def _busy(statuses: Sequence[StageStatus]) -> list[str]:
    """A line for every stage that has been at one operation for long."""
    return [f"stage {status.stage} is {status.busy}" for status in statuses if status.busy and not status.silent_s]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
