"""When did the stages do what, at the beginning, at a sync and at a change of structure?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.records.picture import timeline_figure
from pipeline.reports.gallery import Gallery
from pipeline.reports.groups import Group
from pipeline.reports.page import Html, join, text
from pipeline.reports.reading import Run
from pipeline.reports.windows import find_first, read_window
from pipeline.stages.trace import Event

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["timelines"]

_WIDTH = 7.8  # inches; 750 pixels
_MOST_AS_SVG = 600
"""Operations; a picture of more is smaller as PNG."""
_AROUND = 3
"""Steps shown before and after."""
_SETTLED = 20
"""Steps after which a sync is looked for."""


def timelines(groups: list[Group], gallery: Gallery) -> Html:
    """Windows of the trace of one run of each group."""
    parts: list[Html] = []
    for group in groups:
        for where, first, last in _windows(group.shown):
            events = read_window(group.shown, first=first, last=last)
            figure = _draw(group, where, events, groups)
            if figure is not None:
                has_many = sum(map(len, events.values())) > _MOST_AS_SVG
                parts.append(gallery.hang(figure, "timeline", where, group.label, has_map=has_many))
    about = (
        "Windows of the trace of one run of each group, the first that finished. A row is a stage; between operations "
        "it waits, or does what leaves no trace (evaluation, saving)."
    )
    return join(text(about, soft=True), *parts) if parts else Html("")


def _windows(run: Run) -> list[tuple[str, int, int]]:
    """What to show, and the steps."""
    windows = [("the beginning", 0, min(max(6, 2 * run.num_stages), 24) - 1)]
    sync = find_first(run, "S", stage=max(run.num_stages - 2, 0), after=_SETTLED)
    if sync is not None:
        windows.append((f"around the sync at step {sync:,}", max(sync - _AROUND, 0), sync + _AROUND))
    change = next((change for change in run.changes if change.step > 0), None)
    if change is not None:
        where = f"around the change of structure at step {change.step:,}"
        windows.append((where, max(change.step - _AROUND, 0), change.step + _AROUND))
    return windows


def _draw(group: Group, where: str, events: Mapping[int, Sequence[Event]], groups: list[Group]) -> Figure | None:
    all_events = [event for found in events.values() for event in found]
    if not all_events:
        return None
    span_s = (min(event.start_s for event in all_events), max(event.end_s for event in all_events))
    return timeline_figure(
        events,
        span_s=span_s,
        title=where if len(groups) == 1 else f"{group.label}: {where}",
        clock="virtual seconds" if group.shown.in_virtual_time else "ms",
        width_inches=_WIDTH,
    )
