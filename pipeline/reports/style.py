"""What do all pictures of a report look like, and how does one come into a page?

A group has one colour on the whole page, and so has a stage. Pictures are SVG in the page, where black is the colour of
the text (so they are legible in the dark too), and PNG on white beside it.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.reports.page import Html

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "PANEL",
    "brief_number",
    "group_color",
    "group_dash",
    "inline_png",
    "inline_svg",
    "legend_height",
    "new_panel",
    "plain",
    "put_legend",
    "put_numbers",
    "stage_color",
    "styled",
    "write_png",
]

PANEL = (3.75, 2.6)
"""Inches of a picture of which three stand side by side on a wide screen."""

_GROUPS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a8a")
"""Of Okabe and Ito 2008, which the colour-blind can tell apart."""
_DASHES = ("-", "--", ":", "-.")
_STAGES = ((0x3B, 0x5B, 0xDB), (0x10, 0x98, 0xAD), (0xC4, 0x9A, 0x00), (0xD6, 0x50, 0x14))
"""The first stage is blue, the last orange: none is too dark on black or too light on white."""
_PNG_DPI = 120
_THOUSANDS, _TINY = 20_000.0, 0.005
_LONGEST_TITLE = 52
_SETTINGS: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.formatter.limits": (-9, 9),
    "axes.formatter.useoffset": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": "#909090",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",  # text stays text: it can be found, and takes the page's font
    "svg.hashsalt": "dni report",  # the same picture has the same bytes
    "font.family": "DejaVu Sans",
}


@contextmanager
def styled() -> Iterator[None]:
    """Inside the block, matplotlib draws in the style of the page."""
    import matplotlib  # slow to load

    with matplotlib.rc_context(_SETTINGS):
        yield


@contextmanager
def plain() -> Iterator[None]:
    """Inside the block, matplotlib draws as it does by itself; for pictures that others draw."""
    import matplotlib

    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        yield


def group_color(index: int) -> str:
    """Of a group by its place on the page, or of a layer by its place in a picture."""
    return _GROUPS[index % len(_GROUPS)]


def group_dash(index: int) -> str:
    """The kind of line; past the colours another."""
    return _DASHES[index // len(_GROUPS) % len(_DASHES)]


def stage_color(stage: int, num_stages: int) -> str:
    """From blue, the first stage, by way of green and yellow to orange, the last."""
    place = stage / (num_stages - 1) * (len(_STAGES) - 1) if num_stages > 1 else 0.0
    below = min(int(place), len(_STAGES) - 2)
    share = place - below
    mixed = [round((1.0 - share) * b + share * a) for b, a in zip(_STAGES[below], _STAGES[below + 1], strict=True)]
    return "#" + "".join(f"{part:02x}" for part in mixed)


def new_panel(
    *,
    title: str,
    x_label: str,
    y_label: str = "",
    size: tuple[float, float] = PANEL,
    left: float = 0.62,
    right: float = 0.12,
    below: float = 0.0,
) -> tuple[Figure, Axes]:
    """A figure with one pair of axes. Its margins are fixed: working them out takes as long as drawing, twice.

    Args:
        title: above it.
        x_label: below it.
        y_label: beside it.
        size: inches.
        left: inches for the numbers or names beside the axes.
        right: inches for what stands to the right.
        below: inches by which the figure is higher, for what stands below the axes.
    """
    from matplotlib.figure import Figure

    width, height = size[0], size[1] + below
    figure = Figure(figsize=(width, height))
    box = (left / width, (0.46 + below) / height, 1.0 - (left + right) / width, 1.0 - (0.76 + below) / height)
    axes = figure.add_axes(box)
    axes.set(xlabel=x_label, ylabel=y_label)
    figure.text(0.06 / width, 1.0 - 0.06 / height, _fitting(title), va="top", weight="bold", fontsize=9.5)
    return figure, axes


def legend_height(labels: Sequence[str]) -> float:
    """Inches that a legend of these lines takes below the axes; one line needs none."""
    return 0.08 + 0.17 * -(-len(labels) // _columns(labels)) if len(labels) > 1 else 0.0


def put_legend(figure: Figure, axes: Axes, *, title: str = "") -> None:
    """Name the lines below the axes, where they hide nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) < 2:
        return
    width, height = figure.get_size_inches()
    shift = 0.0
    if title:
        figure.text(0.08 / width, 0.075 / height, title, fontsize=8.0, va="bottom")
        shift = 0.08 * len(title)
    figure.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=((0.02 + shift) / width, 0.0),
        borderaxespad=0.1,
        ncols=_columns(labels),
        handlelength=1.4,
        columnspacing=1.0,
        labelspacing=0.2,
    )


def put_numbers(axes: Axes) -> None:
    """Write large numbers as 20k or 3M and very small ones with an exponent each, so that none stands over the axes.

    A logarithmic axis has numbers at 1, 10, 100, and of less than three decades also at 3, 30.
    """
    from matplotlib.ticker import FuncFormatter, LogFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        largest = max(abs(low), abs(high))
        if isinstance(axis.get_major_formatter(), LogFormatter):
            axis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high < 1e3 * low else (1.0,)))
            axis.set_major_formatter(FuncFormatter(lambda value, place: brief_number(value)))
            axis.set_minor_formatter(NullFormatter())
        if isinstance(axis.get_major_formatter(), ScalarFormatter) and not _TINY <= largest < _THOUSANDS:
            axis.set_major_formatter(FuncFormatter(lambda value, place: brief_number(value)))
    if isinstance(axes.xaxis.get_major_locator(), MaxNLocator):
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))


def brief_number(value: float) -> str:
    """20k for 20000."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{sign}"
    return f"{value:.4g}"


def _columns(labels: Sequence[str]) -> int:
    """As many as there is room for."""
    return max(1, min(len(labels), 58 // (max(map(len, labels)) + 5)))


def _fitting(title: str) -> str:
    return title if len(title) <= _LONGEST_TITLE else title[: _LONGEST_TITLE - 1] + "…"


def inline_svg(figure: Figure, *, alt: str) -> Html:
    """A picture in the page, transparent, its black the text's colour, without a word of where SVG is defined."""
    kept = io.StringIO()
    figure.savefig(kept, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = kept.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r"#000000|#222222", "currentColor", text)
    text = re.sub(r"font: ([\d.]+px) '[^;\"]*?sans-serif", r"font: \1 sans-serif", text)
    width_px = float(figure.get_figwidth()) * 96.0
    head = f'<svg role="img" aria-label="{escape(alt)}" style="max-width:{width_px * 1.27:.0f}px"'
    text = re.sub(r'^<svg([^>]*?)\swidth="[^"]*"', r"<svg\1", text)
    text = re.sub(r'^<svg([^>]*?)\sheight="[^"]*"', r"<svg\1", text)
    return Html(head + text[len("<svg") :])


def inline_png(figure: Figure, *, alt: str) -> Html:
    """A picture in the page on white, for colour maps, whose SVG would be large."""
    kept = io.BytesIO()
    figure.savefig(kept, format="png", dpi=_PNG_DPI)
    data = base64.b64encode(kept.getvalue()).decode()
    return Html(f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">')


def write_png(figure: Figure, path: Path) -> None:
    """A picture as a file, on white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_PNG_DPI, facecolor="white")
