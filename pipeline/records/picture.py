"""What did the stages do at the same time? A picture: a row per stage, a colour per operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
_SYNC: dict[str, Any] = {"color": "#228833", "marker": "v", "linestyle": "none", "markersize": 5}
_MOST_ROWS = 48
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
    """Draw the operations that begin before `until_s` into a file."""
    timeline_figure(events, until_s=until_s, title=title, x_label="virtual seconds").savefig(path, dpi=120)


def timeline_figure(
    events: Mapping[int, Sequence[Event]],
    *,
    from_s: float = 0.0,
    until_s: float,
    title: str,
    x_label: str,
    width: float = 12.0,
) -> Figure:
    """The operations that begin before `until_s`, and syncs as marks.

    Args:
        events: of each stage that gets a row.
        from_s: where the axis begins.
        until_s: where it ends.
        title: above the picture.
        x_label: what the axis counts.
        width: of the picture, in inches.
    """
    from matplotlib.figure import Figure  # slow to load
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    stages = sorted(events)
    figure = Figure(figsize=(width, 1.6 + 0.22 * len(stages)), layout="constrained")
    axes = figure.add_subplot()
    seen = set()
    for row, stage in enumerate(stages):
        for operation, (_, color) in _LOOKS.items():
            spans = [
                (event.start_s, min(event.end_s, until_s) - event.start_s)
                for event in events[stage]
                if event.operation == operation and event.start_s < until_s
            ]
            if spans:
                seen.add(operation)
                axes.broken_barh(spans, (row - 0.42, 0.84), facecolors=color, edgecolors="white", linewidth=0.2)
        syncs = [event.start_s for event in events[stage] if event.operation == "S" and event.start_s < until_s]
        if syncs:
            seen.add("S")
            axes.plot(syncs, [row - 0.42] * len(syncs), **_SYNC)
    axes.set(title=title, xlabel=x_label, ylabel="stage", xlim=(from_s, until_s))
    axes.set_yticks(range(len(stages)), [str(stage) for stage in stages], fontsize=7)
    axes.set_ylim(len(stages) - 0.5, -0.5)
    handles: list[Patch | Line2D] = [
        Patch(color=color, label=name) for operation, (name, color) in _LOOKS.items() if operation in seen
    ]
    if "S" in seen:
        handles.append(Line2D([], [], label="sync", **_SYNC))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), frameon=False)
    return figure
