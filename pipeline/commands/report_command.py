"""What does `dni report` do?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.errors import ConfigurationError
from pipeline.reports.report import Report, read_runs, write_report

__all__ = ["report_command"]

_MOST_NOTES = 8


@dataclass(frozen=True, kw_only=True)
class _ReportOptions:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, finished or not. Those that differ only in their seed become one group."""
    out: Path | None = None
    """Folder to write report.html and pictures/ into; by default `report` in the folder of the only run, or beside the
    first of several."""
    title: str = ""
    """Of the page; by default the names of the groups."""
    by: str = ""
    """Settings that alone tell groups apart, with commas between, as sync.probability,steps (`sync` is all that begins
    with it); by default all but the seed."""


def report_command(words: list[str]) -> int:
    """Lay runs side by side: one HTML page that needs nothing but itself, and its pictures as PNG.

    For example:
      dni report runs/quickstart-20260101-120000
      dni report runs/backprop-* runs/dni-* --out compared --title "Backprop and synthetic gradients"
      dni report runs/sweep-* --by sync.probability
    """
    options = tyro.cli(_ReportOptions, args=words, prog="dni report", description=report_command.__doc__)
    by = [name for part in options.by.split(",") if (name := part.strip())]
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[pictures]} pictures"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        reading = progress.add_task("reading", total=len(options.runs), pictures=0)
        runs, notes = read_runs(options.runs, on_run=lambda folder: progress.advance(reading))
        progress.remove_task(reading)
        drawing = progress.add_task("drawing", total=None, pictures=0)
        report = write_report(
            runs,
            _folder(options),
            title=options.title,
            by=by,
            notes=notes,
            on_section=lambda heading, done, total: progress.update(
                drawing, description=heading, completed=done, total=total
            ),
            on_picture=lambda count: progress.update(drawing, pictures=count),
        )
    _say(console, report)
    return 0


def _folder(options: _ReportOptions) -> Path:
    out = options.out
    if out is None:
        first = options.runs[0]
        out = first / "report" if len(options.runs) == 1 else first.resolve().parent / "report"
    if out.exists() and not out.is_dir():
        raise ConfigurationError(f"--out must be a folder, but {out} is a file.")
    return out


def _say(console: Console, report: Report) -> None:
    num_runs = sum(len(group.runs) for group in report.groups)
    for said in report.notes[:_MOST_NOTES]:
        console.print(f"note: {said}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    if len(report.notes) > _MOST_NOTES:
        console.print(f"note: and {len(report.notes) - _MOST_NOTES} more, at the end of the page", style="yellow")
    counted = ((num_runs, "run"), (len(report.groups), "group"), (len(report.pictures), "picture"))
    console.print(", ".join(f"{count} {what}{'s' * (count != 1)}" for count, what in counted), highlight=False)
    console.print(f"report       {report.html}", highlight=False, markup=False, soft_wrap=True)
