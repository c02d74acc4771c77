"""What does a quantity look like over a run, over the depth of a network, and as shares of time?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.reports.series import Band, Floats
from pipeline.reports.style import (
    PANEL,
    brief_number,
    group_color,
    group_dash,
    legend_height,
    new_panel,
    put_legend,
    put_numbers,
    stage_color,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Line",
    "depth_figure",
    "dots_figure",
    "group_line",
    "lines_figure",
    "lines_or_map",
    "map_figure",
    "shares_figure",
    "stage_lines",
    "staleness_figure",
]

_MOST_LINES = 6
"""Of more stages (or layers) a map is drawn, a row each: lines could not be told apart."""
_MAP_COLUMNS = 60
_MOST_DOTS = 12
"""A curve of more points has none drawn."""
_NAME_LENGTH = 18
"""A longer name loses its middle: it may begin with its stage, and ends with what it is of."""
_MOST_STALENESS = 16
_LOG_FROM = 30.0
"""Ratio of the largest to the smallest value from which a positive quantity has a logarithmic axis."""
_SHARES = (("busy", "#0072b2"), ("waiting", "#b5b5b5"), ("dropped", "#d55e00"))


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve to draw."""

    label: str
    band: Band
    color: str
    linestyle: str = "-"
    is_level: bool = False
    """Whether each value holds until the next, instead of moving towards it."""


def lines_figure(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str = "",
    may_be_log: bool = False,
    marks: Sequence[float] = (),
    limits: tuple[float, float] | None = None,
    legend: str | None = None,
) -> Figure:
    """Means as lines, one standard deviation about them as bands.

    Args:
        lines: at least one.
        title: above the picture.
        x_label: below it.
        y_label: beside it.
        may_be_log: the vertical axis is logarithmic where values span more than a factor of 30.
        marks: where vertical lines stand.
        limits: of the vertical axis.
        legend: title of a legend of the lines; None: the page names them.
    """
    labels = [line.label for line in lines] if legend is not None else []
    figure, axes = new_panel(title=title, x_label=x_label, y_label=y_label, below=legend_height(labels))
    for line in lines:
        band = line.band
        axes.plot(
            band.x,
            band.mean,
            color=line.color,
            linestyle=line.linestyle,
            drawstyle="steps-post" if line.is_level else "default",
            marker="o" if len(band.x) <= _MOST_DOTS and not line.is_level else "",
            markersize=3.5,
            label=line.label,
        )
        low, high = band.mean - band.deviation, band.mean + band.deviation
        if np.isfinite(band.deviation).any():
            axes.fill_between(band.x, low, high, color=line.color, alpha=0.2, linewidth=0)
    for mark in marks:
        axes.axvline(mark, color="#8a8a8a", linewidth=0.9, linestyle=(0, (2, 2)), zorder=0.5)
    if may_be_log:
        _log_if_wide(axes, lines)
    if limits is not None:
        margin = 0.05 * (limits[1] - limits[0]) or 0.05 * abs(limits[1]) or 0.5
        axes.set_ylim(limits[0] - margin, limits[1] + margin)
    put_numbers(axes)
    if legend is not None:
        put_legend(figure, axes, title=legend)
    return figure


def map_figure(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str = "",
    limits: tuple[float, float] | None = None,
    marks: Sequence[float] = (),
) -> Figure:
    """A row per line, time to the right, the value as a colour; what was not measured stays blank."""
    from matplotlib.colors import LogNorm, Normalize

    measured = np.unique(np.concatenate([line.band.x for line in lines]))
    is_even = len(measured) > _MAP_COLUMNS or all(line.is_level for line in lines)
    edges, rows = _cells(measured, lines) if is_even else _columns(measured, lines)
    size = (PANEL[0], _map_height(len(rows)))
    longest = max(len(line.label) for line in lines)
    left = 0.5 if longest <= 3 else 0.35 + 0.068 * min(longest, _NAME_LENGTH)
    figure, axes = new_panel(title=title, x_label=x_label, y_label=y_label, size=size, left=left, right=0.66)
    low, high = limits or (float(np.nanmin(rows)), float(np.nanmax(rows)))
    high = high if high > low else low + 1.0
    norm = LogNorm(low, high) if low > 0 and high / low > _LOG_FROM else Normalize(low, high)
    image = axes.pcolormesh(edges, np.arange(len(rows) + 1) - 0.5, rows, cmap="cividis", norm=norm, rasterized=True)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(False)
    every = -(-len(lines) // 24)
    axes.set_yticks(range(0, len(lines), every), [_shortened(line.label) for line in lines[::every]], fontsize=7.5)
    put_numbers(axes)
    if not is_even:
        ticks = range(0, len(measured), -(-len(measured) // 5))
        axes.set_xticks(ticks, [brief_number(measured[tick]) for tick in ticks])
        marks = np.interp(marks, measured, range(len(measured))).tolist()
    for mark in marks:
        axes.axvline(mark, color="#ffffff", linewidth=0.9, linestyle=(0, (2, 2)))
    box = axes.get_position()
    bar = figure.add_axes((box.x1 + 0.08 / PANEL[0], box.y0, 0.1 / PANEL[0], box.height))
    figure.colorbar(image, cax=bar).outline.set_visible(False)
    put_numbers(bar)
    return figure


def lines_or_map(
    lines: Sequence[Line],
    *,
    title: str,
    legend: str,
    limits: tuple[float, float] | None = None,
    marks: Sequence[float] = (),
    may_be_log: bool = False,
) -> Figure:
    """Over steps: lines, or of many a map; `legend` says what the lines, or rows, are."""
    if len(lines) > _MOST_LINES:
        return map_figure(lines, title=title, x_label="step", y_label=legend, limits=limits, marks=marks)
    return lines_figure(
        lines, title=title, x_label="step", limits=limits, marks=marks, may_be_log=may_be_log, legend=legend
    )


def depth_figure(lines: Sequence[Line], *, title: str, y_label: str = "") -> Figure:
    """A number for each stage, a line for each group; x of the bands are stages."""
    figure, axes = new_panel(title=title, x_label="stage", y_label=y_label)
    for line in lines:
        band = line.band
        shift = np.nan_to_num(band.deviation)
        axes.errorbar(
            band.x,
            band.mean,
            yerr=shift,
            color=line.color,
            ls=line.linestyle,
            marker="o",
            markersize=4,
            capsize=2,
            label=line.label,
        )
    stages = sorted({int(stage) for line in lines for stage in line.band.x})
    axes.set_xticks(stages if len(stages) <= 16 else stages[:: -(-len(stages) // 12)])
    return figure


def dots_figure(names: Sequence[str], values: Sequence[float], colors: Sequence[str], *, title: str) -> Figure:
    """One number for each name."""
    shown = [_shortened(name) for name in names]
    left = 0.3 + 0.075 * max(map(len, shown))
    figure, axes = new_panel(title=title, x_label="", size=(PANEL[0], 0.9 + 0.2 * len(names)), left=left)
    rows = range(len(names))
    axes.scatter(values, rows, c=list(colors), s=28, zorder=2)
    axes.set_yticks(rows, shown, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    known = [value for value in values if np.isfinite(value)]
    if known and min(known) > 0 and max(known) / min(known) > _LOG_FROM:
        axes.set_xscale("log")
    put_numbers(axes)
    return figure


def shares_figure(shares: Sequence[Mapping[str, float]], *, title: str) -> Figure:
    """How each stage spent its time: a bar per stage of busy, waiting and dropped, which add up to 1."""
    figure, axes = new_panel(
        title=title,
        x_label="share of the stage's time",
        y_label="stage",
        size=(PANEL[0], _map_height(len(shares))),
        left=0.5,
        below=0.25,
    )
    left = np.zeros(len(shares))
    for name, color in _SHARES:
        widths = np.array([share[name] for share in shares])
        if widths.any():
            axes.barh(range(len(shares)), widths, left=left, color=color, height=0.8, label=name)
        left += widths
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.grid(False, axis="y")
    _stage_ticks(axes, len(shares))
    put_legend(figure, axes)
    return figure


def staleness_figure(counts: Sequence[Mapping[int, float]], *, title: str) -> Figure:
    """How many versions late the gradients of each stage came: a row per stage, whose cells add up to 1."""
    largest = max((value for found in counts for value in found), default=0)
    columns = min(largest, _MOST_STALENESS) + 1
    cells = np.full((len(counts), columns), np.nan)
    for stage, found in enumerate(counts):
        total = sum(found.values())
        for value, count in found.items():
            column = min(value, columns - 1)
            cells[stage, column] = np.nan_to_num(cells[stage, column]) + count / total
    figure, axes = new_panel(
        title=title,
        x_label="versions from forward to update",
        y_label="stage",
        size=(PANEL[0], _map_height(len(counts))),
        left=0.5,
    )
    axes.imshow(cells, aspect="auto", interpolation="nearest", cmap="Blues", vmin=0.0, vmax=1.3)
    axes.grid(False)
    names = [str(value) for value in range(columns)]
    if largest > _MOST_STALENESS:
        names[-1] = f"≥{_MOST_STALENESS}"
    axes.set_xticks(range(columns), names)
    axes.set_xlim(-0.5, max(columns, 4) - 0.5)
    _stage_ticks(axes, len(counts))
    if columns <= 8 and len(counts) <= 24:
        for (stage, column), value in np.ndenumerate(cells):
            if np.isfinite(value):
                words = f"{value:.0%}" if value >= 0.01 else "<1%"
                axes.text(
                    column,
                    stage,
                    words,
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color="#fefefe" if value > 0.75 else "#101010",
                )
    return figure


def group_line(index: int, label: str, band: Band, *, is_level: bool = False) -> Line:
    """In the look of the group, or layer, of this place."""
    return Line(label=label, band=band, color=group_color(index), linestyle=group_dash(index), is_level=is_level)


def stage_lines(bands: Mapping[int, Band], *, num_stages: int, are_levels: bool = False) -> list[Line]:
    """A line per stage, in its colour."""
    return [
        Line(label=str(stage), band=band, color=stage_color(stage, num_stages), is_level=are_levels)
        for stage, band in sorted(bands.items())
    ]


def _cells(measured: Floats, lines: Sequence[Line]) -> tuple[Floats, Floats]:
    """Where the K columns of a map begin and end, (K + 1,), and its values, (lines, K), NaN where there is none.

    Levels have a column from each step to the next. Other columns are about evenly spaced steps, and hold what lies
    between measurements, too.
    """
    places = measured if len(measured) <= _MAP_COLUMNS else np.linspace(measured[0], measured[-1], _MAP_COLUMNS)
    width = (places[-1] - places[0]) / _MAP_COLUMNS or 1.0
    if all(line.is_level for line in lines):
        return np.append(places, places[-1] + width), np.stack([_levels_at(places, line.band) for line in lines])
    half = (places[1] - places[0]) / 2
    rows = [np.interp(places, line.band.x, line.band.mean, left=np.nan, right=np.nan) for line in lines]
    return np.append(places - half, places[-1] + half), np.stack(rows)


def _columns(measured: Floats, lines: Sequence[Line]) -> tuple[Floats, Floats]:
    """The same with a column, as wide as the others, for each step at which anything was measured."""
    rows = np.full((len(lines), len(measured)), np.nan)
    for row, line in zip(rows, lines, strict=True):
        row[np.searchsorted(measured, line.band.x)] = line.band.mean
    return np.arange(len(measured) + 1, dtype=np.float64) - 0.5, rows


def _levels_at(places: Floats, band: Band) -> Floats:
    """Each value until the next; NaN before the first and after the last."""
    before = np.searchsorted(band.x, places, side="right") - 1
    return np.where((before >= 0) & (places <= band.x[-1]), band.mean[before], np.nan)


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[:8]}…{name[9 - _NAME_LENGTH :]}"


def _map_height(num_rows: int) -> float:
    return float(min(max(1.1 + 0.17 * num_rows, 1.4), 7.0))


def _stage_ticks(axes: Axes, num_stages: int) -> None:
    every = -(-num_stages // 16)
    axes.set_yticks(range(0, num_stages, every))


def _log_if_wide(axes: Axes, lines: Sequence[Line]) -> None:
    low = min(float(line.band.mean.min()) for line in lines)
    high = max(float(line.band.mean.max()) for line in lines)
    if low > 0 and high / low > _LOG_FROM:
        axes.set_yscale("log")
