"""What did each stage do with its time, and how late did its gradients come?"""

from __future__ import annotations

from statistics import fmean

from pipeline.reports.figures import shares_figure, staleness_figure
from pipeline.reports.gallery import Gallery
from pipeline.reports.groups import Group
from pipeline.reports.numbers import STAGE, spread
from pipeline.reports.page import Html, folded, grid, join, table, text
from pipeline.reports.panels import over_time, titled

__all__ = ["OVER_TIME", "stages_at_work"]

OVER_TIME = {
    "source_loss": "loss of the source",
    "samples_per_s": "samples/s",
    "version": "updates so far",
    "staleness": "staleness, versions",
}
"""Names of what is drawn over the run here."""
_SHARES = ("busy", "waiting", "dropped")
_MOST_OPEN = 8
"""Stages whose table is not folded away."""


def stages_at_work(groups: list[Group], gallery: Gallery) -> Html:
    """Shares of time, staleness and updates, by stage."""
    times = [
        gallery.hang(shares_figure(found, title=titled("time", groups, group)), "time by stage", group.label)
        for group in groups
        if (found := _shares(group))
    ]
    late = [
        gallery.hang(staleness_figure(counts, title=titled("staleness", groups, group)), "staleness", group.label)
        for group in groups
        if any(counts := _staleness(group))
    ]
    panels = {heading: over_time(groups, name, heading, gallery) for name, heading in OVER_TIME.items()}
    if not (times or late or any(panels.values())):
        return Html("")
    about = text(
        "How each stage spent its time, and how many versions its weights had moved on when a gradient came (a row "
        "adds up to 1); means over the runs of a group.",
        soft=True,
    )
    tables = [
        _stage_table(group, is_open=len(groups) == 1) for group in groups if any(run.stages for run in group.runs)
    ]
    if len(groups) == 1:
        return join(about, grid([*times, *late, *(panel for found in panels.values() for panel in found)]), *tables)
    folds = [
        folded(f"{heading[0].upper()}{heading[1:]}, over the run", grid(found)) for heading, found in panels.items()
    ]
    parts = [about, _headed("Shares of time", grid(times)), _headed("Staleness", grid(late))]
    return join(*parts, *tables, *folds)


def _headed(heading: str, content: Html) -> Html:
    return Html(f"<h3>{heading}</h3>{content}") if content else content


def _shares(group: Group) -> list[dict[str, float]]:
    """Of each stage; the mean over runs. Empty if no run has a summary."""
    rows: list[list[tuple[float, ...]]] = [[] for _ in range(group.num_stages)]
    for run in group.runs:
        for stage, entry in enumerate(run.stages):
            busy_s, wait_s, dropped_s = (float(entry.get(name) or 0.0) for name in ("busy_s", "wait_s", "dropped_s"))
            total_s = busy_s + wait_s
            if total_s > 0:
                rows[stage].append(((busy_s - dropped_s) / total_s, wait_s / total_s, dropped_s / total_s))
    if not any(rows):
        return []
    means = [[fmean(part) for part in zip(*row, strict=True)] if row else [0.0, 0.0, 0.0] for row in rows]
    return [dict(zip(_SHARES, mean, strict=True)) for mean in means]


def _staleness(group: Group) -> list[dict[int, float]]:
    """Counts by stage, of all runs."""
    counts: list[dict[int, float]] = [{} for _ in range(group.num_stages)]
    for run in group.runs:
        for stage, entry in enumerate(run.stages):
            for value, count in (entry.get("staleness_counts") or {}).items():
                counts[stage][int(value)] = counts[stage].get(int(value), 0.0) + count
    return counts


def _stage_table(group: Group, *, is_open: bool) -> Html:
    """A row per stage; columns in which there is nothing are left out."""
    rows = []
    for stage in range(group.num_stages):
        entries = [run.stages[stage] if stage < len(run.stages) else {} for run in group.runs]
        rows.append([str(stage), *(spread([quantity.of(entry) for entry in entries]) for quantity in STAGE)])
    head = ["stage", *(quantity.name for quantity in STAGE)]
    kept = [c for c in range(len(head)) if c == 0 or any(row[c] not in ("-", "0") for row in rows)]
    found = table([head[c] for c in kept], [[row[c] for c in kept] for row in rows])
    return folded(f"Numbers by stage: {group.label}", found, is_open=is_open and group.num_stages <= _MOST_OPEN)
