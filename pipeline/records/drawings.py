"""What does a finding look like? A figure for TensorBoard, a report or a file.

Figures are 7.2 inches wide: at 600 px across nothing is set smaller than can be read. A matrix of more than 46 columns
is wider.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipeline.records.findings import Curves, Matrix, Surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")
"""Of Okabe and Ito 2008, which the colour-blind can tell apart."""
_LINES = ("-", "--", ":", "-.")
"""A curve past the colours takes the next of these."""
_WIDTH = 7.2
_MOST_IN_LEGEND = 16
_MOST_WITH_NUMBERS = 10
"""Rows and columns of a matrix whose numbers are written out."""
_NAME_LENGTH = 26


def draw(finding: Curves | Matrix | Surface) -> Figure:
    """The figure of a finding, not shown and not saved.

    Values that are not finite are left blank. Save it with `figure.savefig(path, dpi=...)`.
    """
    from matplotlib.figure import Figure  # slow to load
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    match finding:
        case Curves():
            figure = Figure(figsize=(_WIDTH, 4.3), layout=ConstrainedLayoutEngine(h_pad=0.1))
            _draw_curves(figure.add_subplot(), finding)
        case Matrix():
            figure = Figure(figsize=_matrix_size(finding), layout=ConstrainedLayoutEngine(h_pad=0.1))
            _draw_matrix(figure, finding)
        case Surface():
            figure = Figure(figsize=(_WIDTH, 5.4), layout=ConstrainedLayoutEngine(h_pad=0.1))
            _draw_surface(figure, finding)
    figure.suptitle(_title(finding), fontsize=13)
    return figure


def _title(finding: Curves | Matrix | Surface) -> str:
    stage = "" if finding.stage is None else f", stage {finding.stage}"
    return f"{finding.tag.replace('_', ' ')}{stage}, step {finding.step:,}"


def _draw_curves(axes: Axes, finding: Curves) -> None:
    for index, (name, values) in enumerate(finding.curves.items()):
        color = _COLORS[index % len(_COLORS)]
        # Few curves may lie on one another, many only have to be told apart.
        line = _LINES[index if len(finding.curves) <= len(_LINES) else index // len(_COLORS) % len(_LINES)]
        marker = "o" if len(finding.x) <= 25 else ""
        axes.plot(
            finding.x,
            _finite(values),
            color=color,
            linestyle=line,
            marker=marker,
            markersize=4,
            linewidth=1.8,
            label=name,
        )
    axes.set(xlabel=finding.x_label, ylabel=finding.y_label)
    _set_scale(axes.set_xscale, finding.x_scale, finding.x)
    _set_scale(axes.set_yscale, finding.y_scale, [value for row in finding.curves.values() for value in row])
    _cut_depths(axes, finding)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.tick_params(labelsize=11)
    axes.xaxis.label.set_fontsize(12)
    axes.yaxis.label.set_fontsize(12)
    count = len(finding.curves)
    if 1 < count <= _MOST_IN_LEGEND:
        if count > 6:
            axes.legend(fontsize=10, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3)
        else:
            axes.legend(fontsize=10, frameon=False)
    elif count > _MOST_IN_LEGEND:
        names = list(finding.curves)
        axes.set_title(f"{count} curves, {names[0]} to {names[-1]}", fontsize=10)
    elif count and (name := next(iter(finding.curves))) not in f"{finding.tag} {finding.y_label}":
        axes.set_title(name, fontsize=11)


def _set_scale(set_scale: Callable[..., None], wanted: str, values: Sequence[float]) -> None:
    """As asked for, but linear where there is nothing that a logarithm could show."""
    sizes = sorted(abs(value) for value in values if math.isfinite(value) and value != 0)
    if wanted == "log" and any(math.isfinite(value) and value > 0 for value in values):
        set_scale("log")
    elif wanted == "symlog" and sizes:
        set_scale("symlog", linthresh=sizes[len(sizes) // 10])  # nearer to 0 it is linear


def _cut_depths(axes: Axes, finding: Curves) -> None:
    """Of a logarithmic axis: what is smaller than 1e-8 of the largest has no news."""
    shown = [value for row in finding.curves.values() for value in row if math.isfinite(value) and value > 0]
    if finding.y_scale == "log" and shown and min(shown) < 1e-8 * max(shown):
        axes.set_ylim(1e-8 * max(shown), 2.0 * max(shown))


def _matrix_size(finding: Matrix) -> tuple[float, float]:
    columns = _column_names(finding)
    below = 0.075 * max(map(len, columns), default=0) if _are_turned(columns) else 0.2
    cell = 0.55 if _has_numbers(finding) else 0.16 if len(finding.rows) > 16 else 0.26  # inches
    grown = max(1.0, len(columns) / 46)  # past what fits at a legible size
    return _WIDTH * grown, max(3.0, 1.0 + below + cell * len(finding.rows))


def _has_numbers(finding: Matrix) -> bool:
    return max(len(finding.rows), len(finding.columns)) <= _MOST_WITH_NUMBERS


def _draw_matrix(figure: Figure, finding: Matrix) -> None:
    axes = figure.add_subplot()
    shown = [value for row in finding.values for value in row if math.isfinite(value)]
    signed = any(value < 0 for value in shown)
    largest = max((abs(value) for value in shown), default=1.0) or 1.0
    top = 1.0 if 0.5 < largest <= 1.0 else largest  # similarities: always the same colour for the same number
    image = axes.imshow(
        [_finite(row) for row in finding.values],
        cmap="RdBu_r" if signed else "cividis",
        vmin=-top if signed else 0.0,
        vmax=top,
        aspect="auto",
        interpolation="nearest",
    )
    size = 11 if _has_numbers(finding) else 8 if len(finding.rows) > 16 else 10
    columns = _column_names(finding)
    axes.set_xticks(range(len(columns)), columns, fontsize=size, rotation=90 if _are_turned(columns) else 0)
    axes.set_yticks(range(len(finding.rows)), _row_names(finding), fontsize=size)
    figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02).ax.tick_params(labelsize=10)
    if _has_numbers(finding):
        for row, values in enumerate(finding.values):
            for column, value in enumerate(values):
                if math.isfinite(value):
                    share = abs(value) / top
                    light = share > 0.6 if signed else share < 0.5
                    color = "white" if light else "black"
                    axes.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=10, color=color)


def _is_numbered(finding: Matrix) -> bool:
    """Whether columns are called by the number of the same row: names would take too much room."""
    return not _has_numbers(finding) and list(finding.rows) == list(finding.columns)


def _row_names(finding: Matrix) -> list[str]:
    names = list(map(_short, finding.rows))
    if not _is_numbered(finding):
        return names
    return [name if name.endswith(f" {index}") else f"{name}  {index}" for index, name in enumerate(names)]


def _column_names(finding: Matrix) -> list[str]:
    if _is_numbered(finding):
        return list(map(str, range(len(finding.columns))))
    return list(map(_short, finding.columns))


def _are_turned(columns: Sequence[str]) -> bool:
    return sum(map(len, columns)) + 2 * len(columns) > 64


def _short(name: str) -> str:
    """The name, or its two ends."""
    half = (_NAME_LENGTH - 1) // 2
    return name if len(name) <= _NAME_LENGTH else f"{name[:half]}…{name[-half:]}"


def _draw_surface(figure: Figure, finding: Surface) -> None:
    axes = figure.add_subplot()
    values = [_finite(row) for row in finding.values]
    shown = sorted(value for row in values for value in row if math.isfinite(value))
    if levels := _levels(shown):
        filled = axes.contourf(finding.x, finding.y, values, levels=levels, cmap="cividis", extend="max")
        lines = axes.contour(finding.x, finding.y, values, levels=levels, colors="white", linewidths=0.6)
        axes.clabel(lines, levels=levels[::2], fontsize=9, fmt="%.3g")
        figure.colorbar(filled, ax=axes, fraction=0.05, pad=0.02).ax.tick_params(labelsize=10)
    else:
        what = f"{shown[0]:.4g} everywhere" if shown else "no finite value"
        axes.text(0.5, 0.5, what, ha="center", va="center", transform=axes.transAxes, fontsize=12)
    if min(finding.x) <= 0 <= max(finding.x) and min(finding.y) <= 0 <= max(finding.y):
        axes.plot([0.0], [0.0], marker="x", color="#d55e00", markersize=10, markeredgewidth=2.5)
    axes.set(xlabel=finding.x_label, ylabel=finding.y_label)
    axes.xaxis.label.set_fontsize(12)
    axes.yaxis.label.set_fontsize(12)
    axes.tick_params(labelsize=11)


def _levels(shown: Sequence[float]) -> list[float]:
    """Heights to draw lines at: closer together near the lowest; none above what nine tenths of the points reach. None
    if the surface is flat but for rounding, or there is none."""
    if not shown:
        return []
    low, high = shown[0], shown[int(0.9 * (len(shown) - 1))]
    high = high if high > low else shown[-1]
    levels = [low + (high - low) * (index / 12) ** 1.5 for index in range(13)]
    return levels if all(one < other for one, other in itertools.pairwise(levels)) else []


def _finite(values: Sequence[float]) -> list[float]:
    """Those that cannot be drawn as nan, which matplotlib leaves blank."""
    return [value if math.isfinite(value) else math.nan for value in values]
