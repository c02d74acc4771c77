"""What do all pictures of a report look like, and how does one come into a page?

A group has one colour on the whole page, and so has a stage. Pictures are SVG in the page, where black is the colour of
the text (so they are legible in the dark too), and PNG on white beside it.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.reports.page import Html

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PANEL", "group_style", "inline_png", "inline_svg", "new_panel", "put_legend", "stage_color", "styled", "write_png"]

PANEL = (3.75, 2.6)
"""Inches of a picture of which three stand side by side on a wide screen."""

_GROUPS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a8a")
"""Of Okabe and Ito 2008, which the colour-blind can tell apart."""
_DASHES = ("-", "--", ":", "-.")
_FIRST_STAGE, _MIDDLE_STAGE, _LAST_STAGE = (0x1F, 0x77, 0xC9), (0x9A, 0x8F, 0x97), (0xE0, 0x7B, 0x00)
"""Blue by grey to orange: none is too dark on black or too light on white."""
_MOST_IN_LEGEND = 8
_PNG_DPI = 140
_SETTINGS = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
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


def group_style(index: int) -> dict[str, str]:
    """Colour and line of a group, by its place on the page."""
    return {"color": _GROUPS[index % len(_GROUPS)], "linestyle": _DASHES[index // len(_GROUPS) % len(_DASHES)]}


def stage_color(stage: int, num_stages: int) -> str:
    """From blue, the first stage, to orange, the last."""
    place = stage / (num_stages - 1) if num_stages > 1 else 0.0
    below, above = (_FIRST_STAGE, _MIDDLE_STAGE) if place < 0.5 else (_MIDDLE_STAGE, _LAST_STAGE)
    share = 2.0 * place if place < 0.5 else 2.0 * place - 1.0
    red, green, blue = (round((1.0 - share) * b + share * a) for b, a in zip(below, above, strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}"


def new_panel(*, title: str, x_label: str, y_label: str = "", size: tuple[float, float] = PANEL) -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_title(title, loc="left")
    return figure, axes


def put_legend(axes: Axes) -> None:
    """Name the lines, if there are several and not too many; otherwise the text beside the picture does."""
    handles, labels = axes.get_legend_handles_labels()
    if 1 < len(labels) <= _MOST_IN_LEGEND:
        axes.legend(handles, labels, loc="best", handlelength=1.6, labelspacing=0.25, borderaxespad=0.2)


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
    head = f'<svg role="img" aria-label="{escape(alt)}" style="max-width:{max(width_px * 1.5, 420):.0f}px"'
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
