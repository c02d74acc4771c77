"""What is written when runs are laid side by side: report.html, and its pictures as PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import ConfigurationError
from pipeline.reports.changes import structure_over_time
from pipeline.reports.edges import edge_tables
from pipeline.reports.found import probe_findings
from pipeline.reports.gallery import Gallery
from pipeline.reports.gradients import gradient_quality
from pipeline.reports.groups import Group, group_runs
from pipeline.reports.limits import what_is_missing
from pipeline.reports.measurements import other_measurements
from pipeline.reports.output import write_page, writing
from pipeline.reports.overview import final_numbers, learning_curves, what_was_run
from pipeline.reports.page import Html, page, text
from pipeline.reports.reading import Run, read_run
from pipeline.reports.stages import stages_at_work
from pipeline.reports.style import styled
from pipeline.reports.timelines import timelines

__all__ = ["Report", "read_runs", "write_report"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written."""

    html: Path
    pictures: tuple[Path, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...]
    """What the runs' folders did not say."""


def read_runs(
    folders: Sequence[Path], *, on_run: Callable[[Path], object] = lambda folder: None
) -> tuple[list[Run], list[str]]:
    """All runs, each once, and a note for each that was named again.

    Raises:
        ConfigurationError: a folder is not a run's, or none was named.
    """
    if not folders:
        raise ConfigurationError("name at least one run's folder: dni report runs/quickstart-20260101-120000.")
    runs: dict[Path, Run] = {}
    notes = []
    for folder in folders:
        on_run(folder)
        place = folder.resolve()
        if place in runs:
            notes.append(f"{folder} was named more than once and counts once.")
        else:
            runs[place] = read_run(folder)
    return list(runs.values()), notes


def write_report(
    runs: Sequence[Run],
    out: Path,
    *,
    title: str = "",
    by: Sequence[str] = (),
    notes: Sequence[str] = (),
    on_section: Callable[[str, int, int], object] = lambda heading, done, total: None,
    on_picture: Callable[[int], object] = lambda count: None,
) -> Report:
    """Write the page and its pictures.

    Args:
        runs: at least one.
        out: folder; it is made, and files of the same names in it are replaced.
        title: of the page; empty: made from the groups.
        by: settings by which runs are told apart; empty: all.
        notes: more to say among the limits.
        on_section: told each part of the page before it is made: heading, how many are done, how many there are.
        on_picture: told how many pictures there are after each.

    Raises:
        ConfigurationError: `by` names no setting, or something cannot be written.
    """
    groups = group_runs(runs, by=by)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    gallery = Gallery(out / "pictures", on_picture=on_picture)
    makers: list[tuple[str, str, Callable[[], Html]]] = [
        ("runs", "What was run", lambda: what_was_run(groups)),
        ("numbers", "Final numbers", lambda: final_numbers(groups)),
        ("curves", "Learning curves", lambda: learning_curves(groups, gallery)),
        ("stages", "Stages at work", lambda: stages_at_work(groups, gallery)),
        ("gradients", "Gradient quality", lambda: gradient_quality(groups, gallery)),
        ("structure", "Structure over time", lambda: structure_over_time(groups, gallery)),
        ("timelines", "Timelines", lambda: timelines(groups, gallery)),
        ("edges", "Edges", lambda: edge_tables(groups)),
        ("findings", "Findings of probes", lambda: probe_findings(groups, gallery)),
        ("more", "Other measurements", lambda: other_measurements(groups, gallery)),
        ("limits", "What this report could not read", lambda: what_is_missing(groups, notes=list(notes))),
    ]
    sections = []
    with styled():
        for done, (name, heading, make) in enumerate(makers):
            on_section(heading, done, len(makers))
            sections.append((name, heading, make()))
    whole = page(title or _title(groups), intro=_intro(groups), sections=sections)
    write_page(out / "report.html", whole)
    missing = tuple(f"{run.name}: {said}" for run in runs for said in run.notes)
    return Report(
        html=out / "report.html", pictures=tuple(gallery.written), groups=tuple(groups), notes=(*notes, *missing)
    )


def _title(groups: list[Group]) -> str:
    if len(groups) == 1:
        only = groups[0].runs
        return f"Run {only[0].name}" if len(only) == 1 else f"{groups[0].label}: {len(only)} runs"
    return " / ".join(group.label for group in groups) if len(groups) <= 3 else f"{len(groups)} configurations"


def _intro(groups: list[Group]) -> Html:
    count = sum(len(group.runs) for group in groups)
    stages = sorted({group.num_stages for group in groups})
    said = f"{count} run{'s' * (count > 1)} in {len(groups)} group{'s' * (len(groups) > 1)}, "
    said += (
        f"{', '.join(map(str, stages))} stage{'s' * (stages != [1])}; written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."
    )
    return text(said, soft=True)
