"""How did the structure of the network change, and by which events?"""

from __future__ import annotations

from pipeline.reports.bands import limits_of, names_in, stage_bands
from pipeline.reports.by_stage import stage_panels
from pipeline.reports.figures import MOST_LINES, Line, lines_figure, map_figure
from pipeline.reports.gallery import Gallery
from pipeline.reports.groups import Group
from pipeline.reports.page import Html, folded, grid, join, table, text
from pipeline.reports.style import group_style

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
        bands = stage_bands(group, name)
        if any(len(band.x) > 1 for band in bands.values()):
            limits = limits_of(list(bands.values()))
            figure = stage_panels(bands, title=heading, limits=limits, num_stages=group.num_stages, marks=_marks(group))
            panels.append(gallery.hang(figure, heading, group.label))
    return panels


def _layer_panels(group: Group, names: list[str], gallery: Gallery) -> list[Html]:
    panels = []
    for prefix, heading in _BY_LAYER.items():
        lines = []
        for name in (name for name in names if name.startswith(prefix)):
            for band in stage_bands(group, name).values():
                lines.append(Line(label=name.removeprefix(prefix), band=band, **group_style(len(lines))))
        if len(lines) > MOST_LINES:
            panels.append(gallery.hang(map_figure(lines, title=heading, x_label="step", marks=_marks(group)), heading, group.label))
        elif lines:
            figure = lines_figure(lines, title=heading, x_label="step", marks=_marks(group), legend="layer")
            panels.append(gallery.hang(figure, heading, group.label))
    return panels


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
