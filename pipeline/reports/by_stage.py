"""What did each stage do with its time, and how good was the gradient it learned from?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import numpy as np

from pipeline.records.tags import tag_of
from pipeline.reports.bands import limits_of, names_in, stage_bands
from pipeline.reports.figures import MOST_LINES, Line, depth_figure, lines_figure, map_figure, shares_figure, stage_lines, staleness_figure
from pipeline.reports.gallery import Gallery
from pipeline.reports.groups import Group
from pipeline.reports.numbers import STAGE, Number, spread
from pipeline.reports.overview import group_key
from pipeline.reports.page import Html, folded, grid, join, table, text
from pipeline.reports.series import Band, combine
from pipeline.reports.style import group_style

__all__ = ["gradient_quality", "other_measurements", "stage_panels", "stages_at_work"]

_OVER_TIME = ("gradient_cosine", "gradient_norm_ratio", "gradient_projection", "probe_cosine", "probe_norm_ratio", "probe_projection")
_AT_WORK = {"source_loss": "loss of the source", "samples_per_s": "samples/s", "version": "updates so far", "staleness": "staleness, versions"}
_ELSEWHERE = ("loss", "test_loss", "test_accuracy", "fresh_share", "waiting_share", "dropped_share", *_AT_WORK)
_STRUCTURE = ("width/", "density/", "structure/")
_MOST_PANELS = 36
_TAIL = 0.25
"""Of a run, the part at its end whose mean is shown by depth."""
_MIXED = ("curvature/", "hessian/")
"""Families whose second word is another quantity and not another layer."""


def stages_at_work(groups: list[Group], gallery: Gallery) -> Html:
    """Shares of time, staleness and updates, by stage."""
    shares = [gallery.hang(shares_figure(found, title=_titled("time", groups, g)), "time by stage", g.label) for g in groups if (found := _shares(g))]
    staleness = [gallery.hang(staleness_figure(found, title=_titled("staleness", groups, g)), "staleness by stage", g.label) for g in groups if any(found := _staleness(g))]
    panels = [_over_time(groups, name, heading, gallery) for name, heading in _AT_WORK.items()]
    tables = [folded(f"Numbers by stage: {g.label}", _stage_table(g), is_open=len(groups) == 1 and g.num_stages <= 8) for g in groups if any(run.stages for run in g.runs)]
    if not (shares or staleness or any(panels)):
        return Html("")
    about = "How each stage spent its time, and how many versions its weights had moved on when a gradient came; means over the runs of a group."
    if len(groups) == 1:
        return join(text(about, soft=True), grid([*shares, *staleness, *panels[0], *panels[1], *panels[2], *panels[3]]), *tables)
    folds = [
        folded(f"{heading[0].upper()}{heading[1:]} over the run", grid(found))
        for heading, found in zip(_AT_WORK.values(), panels, strict=True)
    ]
    return join(text(about, soft=True), grid(shares), grid(staleness), *tables, *folds)


def gradient_quality(groups: list[Group], gallery: Gallery) -> Html:
    """How near the gradient used is to the true one: by depth for all groups, over time for each."""
    names = [name for name in names_in(groups) if name.startswith(("gradient_", "parameter_", "probe_"))]
    if not names:
        return Html("")
    depths = {name: _by_depth(groups, name, gallery) for name in names}
    main = [name for name in ("gradient_cosine", "probe_cosine", "probe_parameter_cosine") if name in depths]
    about = (
        "Cosine 1 is the true direction, norm ratio 1 the true length, projection 1 both along the true gradient. At syncs "
        "the synthetic gradient is set beside the true one of the same microbatch; probes grade every source on the same "
        f"samples. By depth: the mean of the last {_TAIL:.0%} of each run, bars are one standard deviation over runs."
    )
    parts = [text(about, soft=True), group_key(groups), grid(depths[name] for name in main)]
    panels = {name: _over_time(groups, name, tag_of(name).replace("_", " "), gallery) for name in _OVER_TIME if name in names}
    if len(groups) == 1:
        parts.append(grid(panel for found in panels.values() for panel in found))
    else:
        parts += [
            folded(f"{tag_of(name).replace('_', ' ')} over the run, by stage", grid(found), is_open=name.endswith("cosine"))
            for name, found in panels.items()
        ]
    rest = grid(depths[name] for name in names if name not in main)
    return join(*parts, folded(f"{len(names) - len(main)} more measures by depth", rest) if len(names) > len(main) else Html(""))


def other_measurements(groups: list[Group], gallery: Gallery) -> Html:
    """Whatever else the runs measured, a row of pictures for each kind."""
    kinds: dict[str, list[str]] = {}
    for name in names_in(groups):
        if name not in _ELSEWHERE and not name.startswith(("gradient_", "parameter_", "probe_", *_STRUCTURE)):
            kinds.setdefault(_kind(name), []).append(name)
    parts = []
    shown = 0
    for kind, names in kinds.items():
        if shown >= _MOST_PANELS:
            parts.append(text(f"Not drawn, for there are too many: {', '.join(list(kinds)[list(kinds).index(kind) :])}. TensorBoard has them."))
            break
        panels = _over_time(groups, names[0], kind, gallery) if "/" not in names[0] else _by_part(groups, kind, names, gallery)
        shown += len(groups)
        parts.append(folded(kind, grid(panels)))
    return join(*parts)


def stage_panels(bands: Mapping[int, Band], *, title: str, limits: tuple[float, float], num_stages: int, marks: Sequence[float] = ()):  # type: ignore[no-untyped-def]
    """A picture of a quantity by stage: lines, or of many stages a map."""
    lines = stage_lines(bands, num_stages=num_stages)
    if len(lines) > MOST_LINES:
        return map_figure(lines, title=title, x_label="step", y_label="stage", limits=limits, marks=marks)
    return lines_figure(lines, title=title, x_label="step", limits=limits, marks=marks, legend="stage")


def _over_time(groups: list[Group], name: str, heading: str, gallery: Gallery) -> list[Html]:
    found = {index: bands for index, group in enumerate(groups) if (bands := stage_bands(group, name))}
    if not found:
        return []
    limits = limits_of([band for bands in found.values() for band in bands.values()])
    return [
        gallery.hang(
            stage_panels(
                bands,
                title=_titled(heading, groups, groups[index]),
                limits=limits,
                num_stages=groups[index].num_stages,
            ),
            heading,
            groups[index].label,
        )
        for index, bands in found.items()
    ]


def _by_part(groups: list[Group], kind: str, names: Sequence[str], gallery: Gallery) -> list[Html]:
    """One picture per group of a quantity that is measured of several layers or blocks."""
    panels = []
    for group in groups:
        lines = [
            Line(label=name.split("/", kind.count("/") + 1)[-1], band=band, **group_style(place % 7))
            for place, name in enumerate(names)
            for band in stage_bands(group, name).values()
        ]
        if lines:
            draw = map_figure if len(lines) > MOST_LINES else _named_lines
            panels.append(gallery.hang(draw(lines, title=_titled(kind, groups, group), x_label="step"), kind, group.label))
    return panels


def _named_lines(lines: Sequence[Line], *, title: str, x_label: str):  # type: ignore[no-untyped-def]
    return lines_figure(lines, title=title, x_label=x_label, legend="")


def _by_depth(groups: list[Group], name: str, gallery: Gallery) -> Html:
    lines = []
    for index, group in enumerate(groups):
        curves = [c for run in group.runs if (c := _tail_means({s: found for s, found in run.of(name).items()}))]
        band = combine([(np.array(list(c), dtype=float), np.array(list(c.values()))) for c in curves])
        if band is not None:
            lines.append(Line(label=group.label, band=band, **group_style(index)))
    heading = tag_of(name).replace("_", " ")
    return gallery.hang(depth_figure(lines, title=heading), heading, "by depth") if lines else Html("")


def _tail_means(found: Mapping[int, object]) -> dict[int, float]:
    means = {}
    for stage, series in found.items():
        steps, values = series.steps, series.values  # type: ignore[attr-defined]
        late = np.isfinite(values) & (steps >= steps[-1] - _TAIL * (steps[-1] - steps[0]))
        if late.any():
            means[stage] = float(values[late].mean())
    return means


def _shares(group: Group) -> list[dict[str, float]]:
    """Of each stage; the mean over runs."""
    rows: list[list[tuple[float, float, float]]] = [[] for _ in range(group.num_stages)]
    for run in group.runs:
        for stage, entry in enumerate(run.stages):
            busy_s, wait_s, dropped_s = (float(entry.get(name) or 0.0) for name in ("busy_s", "wait_s", "dropped_s"))
            if busy_s + wait_s > 0:
                rows[stage].append(((busy_s - dropped_s) / (busy_s + wait_s), wait_s / (busy_s + wait_s), dropped_s / (busy_s + wait_s)))
    if not any(rows):
        return []
    return [
        dict(zip(("busy", "waiting", "dropped"), map(fmean, zip(*row, strict=True)), strict=True)) if row else dict.fromkeys(("busy", "waiting", "dropped"), 0.0)
        for row in rows
    ]


def _staleness(group: Group) -> list[dict[int, float]]:
    """Counts by stage, of all runs."""
    counts: list[dict[int, float]] = [{} for _ in range(group.num_stages)]
    for run in group.runs:
        for stage, entry in enumerate(run.stages):
            for value, count in (entry.get("staleness_counts") or {}).items():
                counts[stage][int(value)] = counts[stage].get(int(value), 0.0) + count
    return counts


def _stage_table(group: Group) -> Html:
    def values(stage: int) -> Iterator[list[Number]]:
        for quantity in STAGE:
            yield [quantity.of(run.stages[stage]) if stage < len(run.stages) else None for run in group.runs]

    rows = [[str(stage), *map(spread, values(stage))] for stage in range(group.num_stages)]
    keep = [0, *(c for c in range(1, len(STAGE) + 1) if any(row[c] not in ("–", "0", "0 ± 0") for row in rows))]
    head = ["stage", *(quantity.name for quantity in STAGE)]
    return table([head[c] for c in keep], [[row[c] for c in keep] for row in rows])


def _kind(name: str) -> str:
    """What a picture is made of: one quantity, of all the layers it was measured of."""
    parts = name.split("/")
    if len(parts) == 1:
        return tag_of(name)
    return "/".join(parts[:2]) if name.startswith(_MIXED) else parts[0]


def _titled(heading: str, groups: list[Group], group: Group) -> str:
    """Of the only group nothing more is said."""
    return heading if len(groups) == 1 else group.label
