"""What do the commands put onto TensorBoard when a run begins and when it is over?

The plan as it stands before the run, as tables. Afterwards the timeline and where the stages' time went, as pictures:
TensorBoard shows no traces by itself, so a text says how to open the whole of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

from rich.box import MARKDOWN
from rich.console import Console, Group, RenderableType
from rich.table import Table

from pipeline.commands.display import plan_tables
from pipeline.configuration.prepared import Prepared
from pipeline.records.board import Board
from pipeline.records.overview import BOARD
from pipeline.records.picture import choose_rows, timeline_figure
from pipeline.records.shares import draw_shares, read_shares
from pipeline.records.timeline import MOST_EVENTS, read_trace, write_timeline
from pipeline.stages.trace import Event

__all__ = ["show_plan", "show_times"]

_STEPS_DRAWN = 4
"""Microbatches whose whole life a picture of the timeline holds."""
_WIDTH_INCHES = 4.5
"""Of a picture that is still legible as small as TensorBoard shows it."""
_WIDEST = 400
"""Characters of a table, so that no cell is broken."""
_HOW = """\
The pictures `timeline/start` and `timeline/middle` of the Images tab hold {num_steps} microbatches each. The file
`trace.json` in the run's folder holds all (of a long run, the first {most:,} events). To look at it, open
<https://ui.perfetto.dev> in a browser, choose *Open trace file*, and take the file: a row per stage, a colour per
operation; `W`, `A`, `S`, `D` zoom and move. The browser reads the file where it is; nothing is sent anywhere. The
page chrome://tracing of Chrome shows it too."""


def show_plan(run: Path, prepared: Prepared, placement: Sequence[int]) -> None:
    """Show what `dni plan` says of a run that is about to start; `placement` is the process of each stage."""
    with _only_noted("the plan"), Board(run, BOARD, part="plan") as board:
        board.text("run/plan", _markdown(plan_tables(prepared, placement)), 0)


def show_times(run: Path) -> None:
    """Show what the stages of a run that is over did with their time; trace.json is written, too."""
    with _only_noted("what the stages did with their time"):
        _show_times(run)


def _show_times(run: Path) -> None:
    events = read_trace(run)
    write_timeline(run, events)
    shares = read_shares(run)
    with Board(run, BOARD, part="times") as board:
        board.text("timeline/how_to_open", _HOW.format(num_steps=_STEPS_DRAWN, most=MOST_EVENTS), 0)
        for name, step in _excerpts(events):
            rows = [sorted(events)[row] for row in choose_rows(len(events))]
            figure = timeline_figure(
                {stage: events[stage] for stage in rows},
                span_s=_life(events, step),
                title=f"from step {step:,}",
                clock="seconds",
                width_inches=_WIDTH_INCHES,
            )
            board.picture(f"timeline/{name}", figure, step)
        if any(shares.values()):
            last = max(line["step"] for lines in shares.values() for line in lines)
            board.picture("time/shares", draw_shares(shares), last)


@contextmanager
def _only_noted(what: str) -> Iterator[None]:
    """What fails in the block is said and no more: a run is not to fail by its pictures."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"TensorBoard does not show {what}: {type(error).__name__}: {error}.", stacklevel=4)


def _excerpts(events: Mapping[int, Sequence[Event]]) -> Iterator[tuple[str, int]]:
    """What to draw, and the step that it begins with."""
    steps = [event.step for event in events.get(0, ()) if event.operation == "F"]
    if steps:
        yield "start", steps[0]
    if len(steps) > 2 * _STEPS_DRAWN:
        yield "middle", steps[len(steps) // 2]


def _life(events: Mapping[int, Sequence[Event]], step: int) -> tuple[float, float]:
    """From when to when some microbatches were worked at, from this one on."""
    spans = [
        (event.start_s, event.end_s)
        for own in events.values()
        for event in own
        if step <= event.step < step + _STEPS_DRAWN
    ]
    return min(start_s for start_s, _ in spans), max(end_s for _, end_s in spans)


def _markdown(shown: RenderableType) -> str:
    """Tables and lines as markdown."""
    blocks = []
    for part in shown.renderables if isinstance(shown, Group) else [shown]:
        if isinstance(part, Table):
            if part.title:
                blocks.append(f"**{part.title}**")
            part.title, part.box = None, MARKDOWN
        console = Console(file=StringIO(), width=_WIDEST)
        with console.capture() as captured:
            console.print(part, highlight=False)
        blocks.append("\n".join(line.strip() for line in captured.get().splitlines() if line.strip()))
    return "\n\n".join(blocks)
