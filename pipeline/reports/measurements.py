"""What else did the runs measure, of which no other part of the page knows?"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.records.tags import tag_of
from pipeline.reports.bands import names_in, stage_bands
from pipeline.reports.figures import Line, group_line, lines_or_map
from pipeline.reports.gallery import Gallery
from pipeline.reports.gradients import MEASURES
from pipeline.reports.groups import Group
from pipeline.reports.page import Html, folded, grid, join, text
from pipeline.reports.panels import over_time, titled
from pipeline.reports.stages import OVER_TIME

__all__ = ["other_measurements"]

_ELSEWHERE = ("loss", "test_loss", "test_accuracy", "fresh_share", "waiting_share", "dropped_share", *OVER_TIME)
_ELSEWHERE_BEGIN = (*MEASURES, "width/", "density/", "structure/")
_MOST_PICTURES = 36
_FAMILIES = ("curvature", "hessian")
"""Of these the second word names another quantity; of others, the layer or block that the quantity is of."""


def other_measurements(groups: list[Group], gallery: Gallery) -> Html:
    """A row of pictures for each quantity, folded."""
    kinds: dict[str, list[str]] = {}
    for name in names_in(groups):
        if name not in _ELSEWHERE and not name.startswith(_ELSEWHERE_BEGIN):
            kinds.setdefault(_kind(name), []).append(name)
    most = max(_MOST_PICTURES // len(groups), 1)
    shown, left_out = list(kinds)[:most], list(kinds)[most:]
    parts = [folded(kind.replace("_", " "), grid(_pictures(groups, kind, kinds[kind], gallery))) for kind in shown]
    if left_out:
        parts.append(text(f"Not drawn, for there are too many: {', '.join(left_out)}. TensorBoard has them."))
    return join(*parts)


def _pictures(groups: list[Group], kind: str, names: Sequence[str], gallery: Gallery) -> list[Html]:
    if list(names) == [kind] or "/" not in names[0]:
        return over_time(groups, names[0], kind, gallery)
    panels = []
    for group in groups:
        lines: list[Line] = []
        for name in names:
            layer = name.removeprefix(f"{kind}/")
            bands = stage_bands(group, name)
            for stage, band in bands.items():
                label = f"stage {stage}: {layer}" if len(bands) > 1 else layer
                lines.append(group_line(len(lines), label, band))
        if lines:
            figure = lines_or_map(lines, title=titled(kind, groups, group), legend="")
            panels.append(gallery.hang(figure, kind, group.label))
    return panels


def _kind(name: str) -> str:
    """What a picture is made of: one quantity, of all the layers it was measured of."""
    parts = name.split("/")
    if len(parts) == 1:
        return tag_of(name)
    return "/".join(parts[:2]) if parts[0] in _FAMILIES else parts[0]
