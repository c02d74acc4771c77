"""How is a quantity that every stage has shown, one picture for each group?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.reports.bands import limits_of, stage_bands
from pipeline.reports.figures import lines_or_map, stage_lines
from pipeline.reports.gallery import Gallery
from pipeline.reports.groups import Group
from pipeline.reports.page import Html
from pipeline.reports.series import Band

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["over_time", "stage_figure", "titled"]


def over_time(groups: list[Group], name: str, heading: str, gallery: Gallery) -> list[Html]:
    """A picture for each group that has measured the quantity, all with the same axis."""
    found = {index: bands for index, group in enumerate(groups) if (bands := stage_bands(group, name))}
    if not found:
        return []
    limits = limits_of([band for bands in found.values() for band in bands.values()])
    pictures = []
    for index, bands in found.items():
        group = groups[index]
        title = titled(heading, groups, group)
        figure = stage_figure(bands, title=title, limits=limits, num_stages=group.num_stages)
        pictures.append(gallery.hang(figure, heading, group.label))
    return pictures


def stage_figure(
    bands: Mapping[int, Band],
    *,
    title: str,
    limits: tuple[float, float],
    num_stages: int,
    marks: Sequence[float] = (),
    are_levels: bool = False,
) -> Figure:
    """A quantity by stage over steps: lines, or of many stages a map."""
    lines = stage_lines(bands, num_stages=num_stages, are_levels=are_levels)
    return lines_or_map(lines, title=title, legend="stage", limits=limits, marks=marks)


def titled(heading: str, groups: list[Group], group: Group) -> str:
    """What is shown, or of which group where a row of pictures shows the same."""
    return heading if len(groups) == 1 else group.label
