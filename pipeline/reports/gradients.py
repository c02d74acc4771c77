"""How good was the gradient that each stage learned from?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.records.tags import tag_of
from pipeline.reports.bands import names_in
from pipeline.reports.figures import depth_figure, group_line
from pipeline.reports.gallery import Gallery
from pipeline.reports.groups import Group
from pipeline.reports.overview import group_key
from pipeline.reports.page import Html, folded, grid, join, text
from pipeline.reports.panels import over_time
from pipeline.reports.series import Series, combine

__all__ = ["MEASURES", "gradient_quality"]

MEASURES = ("gradient_", "parameter_", "probe_")
"""How names begin of what grades a gradient."""
_FIRST = ("gradient_cosine", "probe_cosine", "probe_parameter_cosine")
_OVER_TIME = (
    *("gradient_cosine", "gradient_norm_ratio", "gradient_projection"),
    *("probe_cosine", "probe_norm_ratio", "probe_projection"),
)
_TAIL = 0.25
"""Of a run, the part at its end whose mean is shown by depth."""


def gradient_quality(groups: list[Group], gallery: Gallery) -> Html:
    """How near the gradient used is to the true one: by depth for all groups, over time for each."""
    names = [name for name in names_in(groups) if name.startswith(MEASURES)]
    if not names:
        return Html("")
    about = (
        "Cosine 1 is the true direction, norm ratio 1 the true length, projection 1 both along the true gradient. "
        "At syncs the synthetic gradient is set beside the true one of the same microbatch; probes grade every source "
        f"on the same samples. By depth: the mean of the last {_TAIL:.0%} of each run, bars are one standard deviation "
        "over runs."
    )
    first = [_by_depth(groups, name, gallery) for name in _FIRST if name in names]
    panels = {name: over_time(groups, name, _heading(name), gallery) for name in _OVER_TIME if name in names}
    rest = [_by_depth(groups, name, gallery) for name in names if name not in _FIRST]
    if len(groups) == 1:
        middle = [grid(panel for found in panels.values() for panel in found)]
    else:
        middle = [
            folded(f"{_heading(name)}, over the run by stage", grid(found), is_open=name.endswith("cosine"))
            for name, found in panels.items()
        ]
    more = folded(f"{len(rest)} more measures by depth", grid(rest)) if rest else Html("")
    return join(text(about, soft=True), group_key(groups), grid(first), *middle, more)


def _heading(name: str) -> str:
    return tag_of(name).replace("_", " ")


def _by_depth(groups: list[Group], name: str, gallery: Gallery) -> Html:
    lines = []
    for index, group in enumerate(groups):
        means = [found for run in group.runs if (found := _tail_means(run.of(name)))]
        band = combine([(np.array(list(found), dtype=float), np.array(list(found.values()))) for found in means])
        if band is not None:
            lines.append(group_line(index, group.label, band))
    if not lines:
        return Html("")
    return gallery.hang(depth_figure(lines, title=_heading(name)), _heading(name), "by depth")


def _tail_means(found: Mapping[int, Series]) -> dict[int, float]:
    """By stage."""
    means = {}
    for stage, series in found.items():
        since = series.steps[-1] - _TAIL * (series.steps[-1] - series.steps[0])
        late = np.isfinite(series.values) & (series.steps >= since)
        if late.any():
            means[stage] = float(series.values[late].mean())
    return means
