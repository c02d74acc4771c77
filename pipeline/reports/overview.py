"""Which runs are these, what have they come to, and how did they get there?"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from pipeline.reports.bands import AXES, network_band
from pipeline.reports.figures import group_line, lines_figure
from pipeline.reports.gallery import Gallery
from pipeline.reports.groups import Group, differing
from pipeline.reports.numbers import FINAL, spread, values_of
from pipeline.reports.page import Html, folded, grid, join, note, table, text
from pipeline.reports.style import group_color, group_dash

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["final_numbers", "group_key", "key_mark", "learning_curves", "what_was_run"]

_MOST_IN_TABLE = 4
"""Groups; of more, several tables are made, so that none is wider than the page."""
_CURVES = {"loss": "training loss", "test_loss": "test loss", "test_accuracy": "test accuracy"}


def key_mark(index: int) -> Html:
    """The line of a group, as it is in the pictures."""
    kind = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "double"}[group_dash(index)]
    return Html(f'<span class="key" style="border-top:3px {kind} {group_color(index)}"></span>')


def group_key(groups: list[Group]) -> Html:
    """Which colour is which group; nothing for a single one."""
    if len(groups) < 2:
        return Html("")
    items = [f"<span>{key_mark(index)}{escape(group.label)}</span>" for index, group in enumerate(groups)]
    return Html(f'<p class="keys">{"".join(items)}</p>')


def what_was_run(groups: list[Group]) -> Html:
    """The runs, the settings in which groups differ, and the common ones folded away."""
    names = differing(groups)
    common = {name: value for name, value in groups[0].settings.items() if name not in names}
    parts = [
        _run_table(groups),
        *(_failure(run.name, run.error) for group in groups for run in group.runs if run.error),
    ]
    if names:
        parts.append(Html("<h3>Settings that differ between the groups</h3>"))
        for some, keys in _tables(groups):
            rows = [[name, *(group.settings.get(name, "-") for group in some)] for name in names]
            parts.append(table(["setting", *(group.label for group in some)], rows, words=True, keys=keys))
    elif len(groups) == 1 and len(groups[0].runs) > 1:
        parts.append(text("The runs differ in nothing but their seed."))
    settings = table(["setting", "value"], [[name, value] for name, value in common.items()], words=True)
    parts.append(
        folded(f"{len(common)} settings that {'all groups share' if len(groups) > 1 else 'were used'}", settings)
    )
    parts.append(
        text(
            "Model and data are made by the configuration's function and are not written down as settings, and of "
            "sources only the kind is: they are compared by the function's name and the digest of its file.",
            soft=True,
        )
    )
    return join(*parts)


def _run_table(groups: list[Group]) -> Html:
    rows = []
    for group in groups:
        for run in group.runs:
            processes = run.summary.get("world_size")
            machine = ((run.about.get("machine") or {}).get("processor") or "-").strip()
            rows.append(
                [
                    run.name,
                    group.label,
                    "-" if run.seed is None else str(run.seed),
                    run.status,
                    str(run.num_stages or "-"),
                    f"{run.record.settings.get('executor', '-')}" + (f", {processes} proc." if processes else ""),
                    (run.about.get("commit") or "-")[:10],
                    f"torch {(run.about.get('versions') or {}).get('torch', '-')}, {machine}",
                ]
            )
    head = ["run", "group", "seed", "status", "stages", "executor", "commit", "made with"]
    runs = table(head, rows, words=True)
    return runs if len(rows) <= 8 else folded(f"{len(rows)} runs in {len(groups)} groups", runs)


def _tables(groups: list[Group]) -> Iterator[tuple[list[Group], list[Html]]]:
    """Groups that go into one table, with their marks."""
    size = -(-len(groups) // -(-len(groups) // _MOST_IN_TABLE))
    for first in range(0, len(groups), size):
        some = groups[first : first + size]
        yield some, [key_mark(first + place) if len(groups) > 1 else Html("") for place in range(len(some))]


def _failure(name: str, error: object) -> Html:
    found = dict(error) if isinstance(error, dict) else {}
    where = ", ".join(f"{key} {found[key]}" for key in ("rank", "stage", "step", "phase") if found.get(key) is not None)
    trace = str(found.get("traceback", ""))
    stack = Html(f"<pre>{escape(trace)}</pre>") if trace else Html("")
    return join(note(f"{name} failed ({where}): {found.get('message', 'no message')}"), folded("stack trace", stack))


def final_numbers(groups: list[Group]) -> Html:
    """Mean and spread over the runs of each group."""
    known = [q for q in FINAL if any(value is not None for group in groups for value in values_of(q, group.runs))]
    parts = []
    for some, keys in _tables(groups):
        rows = [["runs (n)", *(_run_count(group) for group in some)]]
        rows += [[q.name, *(spread(values_of(q, group.runs)) for group in some)] for q in known]
        parts.append(table(["", *(group.label for group in some)], rows, keys=keys))
    said = "Mean ± standard deviation (n - 1) over the runs of a group; one number where there is one run or all agree."
    if any(run.in_virtual_time for group in groups for run in group.runs):
        said += (
            " The simulate executor plays all stages on one thread: its wall time and samples/s are of that thread, "
            "its shares of time and the seconds of its stages are virtual."
        )
    if any(not run.summary for group in groups for run in group.runs):
        said += " Of a run without summary.json, the last values that it measured."
    return join(*parts, text(said, soft=True))


def _run_count(group: Group) -> str:
    finished = sum(run.status == "finished" for run in group.runs)
    return f"{len(group.runs)}" if finished == len(group.runs) else f"{len(group.runs)}, of which {finished} finished"


def learning_curves(groups: list[Group], gallery: Gallery) -> Html:
    """Loss and accuracy over steps, samples and wall time, a line per group."""
    parts = [group_key(groups)]
    for axis in AXES:
        pictures = grid(
            gallery.hang(figure, heading, "by", axis)
            for name, heading in _CURVES.items()
            if (figure := _curve(groups, name, axis, heading)) is not None
        )
        parts.append(
            pictures
            if axis != "samples" or not _same_samples(groups)
            else folded("By samples (every step has equally many)", pictures)
        )
    if not any(parts[1:]):
        return Html("")
    return join(*parts, text(_about_bands(groups), soft=True))


def _curve(groups: list[Group], name: str, axis: str, heading: str) -> Figure | None:
    lines = [
        group_line(index, group.label, band)
        for index, group in enumerate(groups)
        if (band := network_band(group, name, axis)) is not None
    ]
    return lines_figure(lines, title=heading, x_label=AXES[axis], may_be_log="loss" in name) if lines else None


def _same_samples(groups: list[Group]) -> bool:
    return len({run.samples_per_step for group in groups for run in group.runs}) == 1


def _about_bands(groups: list[Group]) -> str:
    said = "The training loss is the mean of each logging interval."
    if any(len(group.runs) > 1 for group in groups):
        said += " Lines are means over the runs of a group, bands one standard deviation to either side."
    if any(not run.summary for group in groups for run in group.runs):
        said += " Of a run without summary.json, wall time begins with its first line of metrics."
    if any(run.summary.get("resumed_at") for group in groups for run in group.runs):
        said += " Of a run that was resumed, wall time counts the pause."
    return said
