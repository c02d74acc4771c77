"""What did the stages do at the same time? A picture: a row per stage, a colour per operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigurationError
from pipeline.stages.trace import Event

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_picture", "choose_rows", "draw_timeline", "timeline_figure"]

_LOOKS = {
    "F": ("forward", "#4477aa"),
    "R": ("forward again", "#66ccee"),
    "B": ("backward", "#ee6677"),
    "L": ("source learns", "#ccbb44"),
    "I": ("synthetic input", "#aa3377"),
    "N": ("input source learns", "#ddaa33"),
    "U": ("update", "#222222"),
    "C": ("change of structure", "#228833"),
}
_MOST_ROWS = 48
_ENTRY_INCHES = 1.5
"""Of the legend."""
_FORMATS = (".png", ".pdf", ".svg")


def check_picture(path: Path) -> None:
    """Raise `ConfigurationError` if no picture can be written to `path`."""
    if path.suffix not in _FORMATS:
        raise ConfigurationError(f"a picture ends in {', '.join(_FORMATS)}, got {path}.")
    if not path.parent.is_dir():
        raise ConfigurationError(f"there is no folder {path.parent} for the picture {path.name}. Make it first.")


def choose_rows(num_stages: int) -> list[int]:
    """The stages to draw: all, or some at equal distances, the first and the last among them."""
    count = min(num_stages, _MOST_ROWS)
    return sorted({round(row * (num_stages - 1) / max(count - 1, 1)) for row in range(count)})


def draw_timeline(events: Mapping[int, Sequence[Event]], path: Path, *, until_s: float, title: str) -> None:
    """Draw the operations of virtual time that begin before `until_s`."""
    timeline_figure(events, span_s=(0.0, until_s), title=title, clock="virtual seconds").savefig(path, dpi=120)


def timeline_figure(
    events: Mapping[int, Sequence[Event]],
    *,
    span_s: tuple[float, float],
    title: str,
    clock: str,
    width_inches: float = 12.0,
) -> Figure:
    """A drawing of the operations that lie in a span of time; where it begins is 0.

    Args:
        events: of each stage to be drawn, in order.
        span_s: from when to when.
        title: of the drawing.
        clock: what time is measured in.
        width_inches: of the drawing.
    """
    from matplotlib.figure import Figure  # slow to load
    from matplotlib.patches import Patch

    stages = sorted(events)
    since_s, until_s = span_s
    figure = Figure(figsize=(width_inches, 1.6 + 0.22 * len(stages)), layout="constrained")
    axes = figure.add_subplot()
    seen = set()
    for row, stage in enumerate(stages):
        within = [event for event in events[stage] if event.start_s < until_s and event.end_s > since_s]
        for operation, (_, color) in _LOOKS.items():
            spans = [
                (start_s - since_s, min(event.end_s, until_s) - start_s)
                for event in within
                if event.operation == operation
                for start_s in (max(event.start_s, since_s),)
            ]
            if spans:
                seen.add(operation)
                axes.broken_barh(spans, (row - 0.42, 0.84), facecolors=color, edgecolors="white", linewidth=0.2)
    axes.set(title=title, xlabel=clock, ylabel="stage", xlim=(0.0, until_s - since_s))
    axes.set_yticks(range(len(stages)), [str(stage) for stage in stages], fontsize=7)
    axes.set_ylim(len(stages) - 0.5, -0.5)
    patches = [Patch(color=color, label=name) for operation, (name, color) in _LOOKS.items() if operation in seen]
    columns = int(width_inches // _ENTRY_INCHES)
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), columns), frameon=False)
    return figure
