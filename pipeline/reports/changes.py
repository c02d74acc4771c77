"""How did the structure of the network change, and by which events?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.reports.bands import limits_of, names_in, stage_bands
from pipeline.reports.figures import Line, group_line, lines_or_map
from pipeline.reports.gallery import Gallery
from pipeline.reports.groups import Group
from pipeline.reports.page import Html, folded, grid, join, table, text
from pipeline.reports.panels import stage_figure
from pipeline.reports.series import Band

__all__ = ["structure_over_time"]

_BY_STAGE = {"structure/parameters": "parameters", "structure/mflop_per_sample": "MFLOP of a forward, per sample"}
_BY_LAYER = {"width/": "width, units", "density/": "density, share of connections"}
_MOST_MARKS = 24
_MOST_OPEN = 10
_MOST_ROWS = 400


def structure_over_time(groups: list[Group], gallery: Gallery) -> Html:
    """Parameters by stage, widths and densities by layer, and what each event did."""
    names = names_in(groups)
    parts = []
    for group in groups:
        panels = _stage_panels(group, gallery) + _layer_panels(group, names, gallery)
        events = _event_table(group)
        if panels or events:
            heading = [Html("")] if len(groups) == 1 else [text(group.label)]
            parts += [*heading, grid(panels), events]
    about = "Dashed lines are events; each stage acts by itself, right after its first update at the step or later."
    return join(text(about, soft=True), *parts) if parts else Html("")


def _marks(group: Group) -> list[float]:
    steps = sorted({float(change.step) for change in group.shown.changes})
    return steps if len(steps) <= _MOST_MARKS else []


def _stage_panels(group: Group, gallery: Gallery) -> list[Html]:
    panels = []
    for name, heading in _BY_STAGE.items():
        bands = {stage: _until_end(band, group) for stage, band in stage_bands(group, name).items()}
        if any(len(band.x) > 2 for band in bands.values()):
            limits = limits_of(list(bands.values()))
            figure = stage_figure(
                bands, title=heading, limits=limits, num_stages=group.num_stages, marks=_marks(group), are_levels=True
            )
            panels.append(gallery.hang(figure, heading, group.label))
    return panels


def _layer_panels(group: Group, names: list[str], gallery: Gallery) -> list[Html]:
    panels = []
    for prefix, heading in _BY_LAYER.items():
        lines: list[Line] = []
        for name in (name for name in names if name.startswith(prefix)):
            for band in stage_bands(group, name).values():
                layer = name.removeprefix(prefix)
                lines.append(group_line(len(lines), layer, _until_end(band, group), is_level=True))
        if lines:
            figure = lines_or_map(lines, title=heading, legend="layer", marks=_marks(group))
            panels.append(gallery.hang(figure, heading, group.label))
    return panels


def _until_end(band: Band, group: Group) -> Band:
    """With its last value carried to the end of the run: structure is written down only when it changes."""
    end = max(
        (float(s.steps[-1]) for run in group.runs for found in run.series.values() for s in found.values()), default=0.0
    )
    if end <= band.x[-1]:
        return band
    grown = {name: np.append(getattr(band, name), getattr(band, name)[-1]) for name in ("mean", "deviation", "counts")}
    return replace(band, x=np.append(band.x, end), **grown)


def _event_table(group: Group) -> Html:
    rows = [
        [run.name, f"{change.step:,}", str(change.stage), change.what] for run in group.runs for change in run.changes
    ]
    head = ["run", "step", "stage", "what happened"]
    if len(group.runs) == 1:
        head, rows = head[1:], [row[1:] for row in rows]
    if not rows:
        return Html("")
    found = table(head, rows[:_MOST_ROWS], words=True)
    if len(rows) > _MOST_ROWS:
        found = join(found, text(f"and {len(rows) - _MOST_ROWS:,} more in events/."))
    return found if len(rows) <= _MOST_OPEN else folded(f"{len(rows):,} changes of structure", found)
