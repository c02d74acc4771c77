"""What could this report not read, and what does it not show?"""

from __future__ import annotations

from pipeline.reports.groups import Group, flat_settings
from pipeline.reports.page import Html, bullets, join, text
from pipeline.reports.reading import Run
from pipeline.reports.series import MOST_POINTS

__all__ = ["what_is_missing"]


def what_is_missing(groups: list[Group], *, notes: list[str]) -> Html:
    """What was left out or could not be read, in sentences."""
    lines = [*notes, *(f"{run.name}: {said}." for group in groups for run in group.runs for said in run.notes)]
    lines += [line for group in groups for line in _uneven(group)]
    longest = max(
        (len(s.values) for g in groups for r in g.runs for found in r.series.values() for s in found.values()),
        default=0,
    )
    if longest > MOST_POINTS:
        lines.append(
            f"The longest series has {longest:,} points; curves show at most {MOST_POINTS}, each the mean of as many "
            "consecutive ones. Peaks are lower than they were."
        )
    if not lines:
        return text("Every file that a run leaves behind was there and could be read, and nothing was thinned out.")
    return join(bullets(lines))


def _uneven(group: Group) -> list[str]:
    """In what the runs of a group differ beside their seed."""
    lines = []
    steps = {run.summary.get("steps") for run in group.runs if run.summary}
    if len(steps) > 1:
        taken = ", ".join(f"{number:,}" for number in sorted(filter(None, steps)))
        lines.append(f"{group.label}: the runs took {taken} steps; where fewer reach, the mean is of those.")
    seeds = [run.seed for run in group.runs]
    again = sorted({str(seed) for seed in seeds if seeds.count(seed) > 1})
    if again:
        lines.append(f"{group.label}: several runs have seed {', '.join(again)}; each counts as one more run.")
    for what in ("commit", "versions", "machine"):
        if len({str(run.about.get(what)) for run in group.runs}) > 1:
            lines.append(f"{group.label}: the runs differ in {what}, as config.json says.")
    inside = sorted({name for run in group.runs for name in _other_settings(group, run)})
    if inside:
        lines.append(f"{group.label}: within the group these settings differ, because of --by: {', '.join(inside)}.")
    return lines


def _other_settings(group: Group, run: Run) -> list[str]:
    own = flat_settings(run)
    return [name for name in {*own, *group.settings} if own.get(name) != group.settings.get(name)]
