"""What have probes found out about the runs?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.records.drawings import draw
from pipeline.records.findings import Curves, Matrix, Scalar, Surface
from pipeline.reports.figures import Line, dots_figure, lines_or_map
from pipeline.reports.gallery import Gallery
from pipeline.reports.groups import Group
from pipeline.reports.page import Html, folded, grid, join, text
from pipeline.reports.series import combine
from pipeline.reports.style import group_color, plain, stage_color

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["probe_findings"]

_MOST_PICTURES = 48
_MOST_OPEN = 6


def probe_findings(groups: list[Group], gallery: Gallery) -> Html:
    """Scalars as curves over steps, by stage; everything else as the picture it is."""
    quantities = sorted(
        {
            _quantity(found)
            for group in groups
            for run in group.runs
            for found in run.findings
            if isinstance(found, Scalar)
        }
    )
    scalars = [
        gallery.hang(figure, quantity, group.label)
        for quantity in quantities
        for group in groups
        if (figure := _draw_scalars(group, quantity, groups)) is not None
    ]
    pictures = [_pictures(group, gallery, only=len(groups) == 1) for group in groups]
    return join(grid(scalars), *pictures)


def _quantity(found: Scalar) -> str:
    """`hessian/trace` of `hessian/trace/0.weight`."""
    return "/".join(found.tag.split("/")[:2])


def _draw_scalars(group: Group, quantity: str, groups: list[Group]) -> Figure | None:
    """Lines over steps by stage and layer; with one step only, dots."""
    values: dict[tuple[int, str], list[list[Scalar]]] = {}
    for run in group.runs:
        of_run: dict[tuple[int, str], list[Scalar]] = {}
        for found in run.findings:
            if isinstance(found, Scalar) and _quantity(found) == quantity:
                of_what = "/".join(found.tag.split("/")[2:])
                of_run.setdefault((-1 if found.stage is None else found.stage, of_what), []).append(found)
        for key, scalars in of_run.items():
            values.setdefault(key, []).append(scalars)
    if not values:
        return None
    title = quantity.replace("_", " ") + ("" if len(groups) == 1 else f": {group.label}")
    lines = []
    for number, ((stage, of_what), runs) in enumerate(sorted(values.items())):
        band = combine(
            [
                (np.array([s.step for s in scalars], dtype=float), np.array([s.value for s in scalars]))
                for scalars in runs
            ]
        )
        if band is not None:
            color = stage_color(stage, group.num_stages) if not of_what and stage >= 0 else group_color(number)
            lines.append(Line(label=_called(stage, of_what), band=band, color=color))
    if not lines:
        return None
    if all(len(line.band.x) == 1 for line in lines):
        names = [line.label for line in lines]
        return dots_figure(
            names, [float(line.band.mean[0]) for line in lines], [line.color for line in lines], title=title
        )
    return lines_or_map(lines, title=title, legend="", may_be_log=True)


def _called(stage: int, of_what: str) -> str:
    return " ".join(part for part in ("" if stage < 0 else f"stage {stage}", of_what) if part) or "network"


def _pictures(group: Group, gallery: Gallery, *, only: bool) -> Html:
    """Of the first run of the group that has any."""
    for run in group.runs:
        drawable = [found for found in run.findings if not isinstance(found, Scalar)]
        if drawable:
            return _hung(drawable, gallery, where="" if only and len(group.runs) == 1 else f"{run.name}: ")
    return Html("")


def _hung(findings: Sequence[Curves | Matrix | Surface], gallery: Gallery, *, where: str) -> Html:
    """The newest of each kind open, all of them in order behind it."""
    newest = {(found.tag, found.stage): found for found in sorted(findings, key=lambda found: found.step)}
    rest = [found for found in findings if found is not newest[found.tag, found.stage]]
    first = list(newest.values())
    some, more = first[:_MOST_OPEN], first[_MOST_OPEN:] + rest
    left_out = max(len(more) - _MOST_PICTURES, 0)
    parts = [
        text(f"{where}the newest of each") if where else Html(""),
        grid((_hang(found, gallery) for found in some), kind="wide"),
    ]
    if more:
        behind = [grid((_hang(found, gallery) for found in more[:_MOST_PICTURES]), kind="wide")]
        if left_out:
            behind.append(text(f"{left_out} more are not drawn; TensorBoard has them."))
        parts.append(folded(f"{where}{min(len(more), _MOST_PICTURES)} more pictures", join(*behind)))
    return join(*parts)


def _hang(found: Curves | Matrix | Surface, gallery: Gallery) -> Html:
    with plain():
        figure = draw(found)
    stage = "" if found.stage is None else f"stage {found.stage}"
    return gallery.hang(figure, found.tag, stage, "step", found.step, has_map=not isinstance(found, Curves))
