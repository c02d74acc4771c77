"""Do the results say what the README says they say?

Rebuilds the README's tables and the picture from results.jsonl; with --check only compares, and names what is wrong.

    python -m experiments.time_to_accuracy.table [--check]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import tyro

from experiments.machine import described
from experiments.readme import rebuild, report
from experiments.time_to_accuracy.config import CHOICES, ROWS, TASKS, Family, Task
from experiments.time_to_accuracy.results import FOLDER, Run, Runs, fastest, median_s, newest, read_runs
from experiments.time_to_accuracy.select import chosen, read_candidates

__all__ = ["PICTURE", "draw", "failures", "main", "render"]

PICTURE = "accuracy_against_time.png"

_FAMILIES: dict[Family, str] = {
    "one process": "one process",
    "waits": "stages that wait for each other",
    "late": "stages that learn from late gradients",
    "decoupled": "stages that predict their gradients",
}
_ALIKE = (("one_64", "late_hold"), ("gpipe", "1f1b"))
"""Rows that learn the same, bit for bit."""
_SEEDS, _FINALIST_SEEDS = 3, 5


def render(runs: Runs) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    tables = {task.name: f"{_found(task, runs)}\n\n{_table(task, runs)}" for task in TASKS.values()}
    return tables | {
        "chosen": "\n".join(_chosen()),
        "machine": "\n".join(sorted(described(run.machine for own in runs.values() for run in own))),
    }


def failures(runs: Runs) -> list[str]:
    """What is missing, and which rows that must learn the same do not."""
    wrong = [*_missing(runs), *_unlike(runs)]
    if dict(CHOICES) != chosen(read_candidates()):
        wrong.append("config.py: CHOICES are not what selection.jsonl gives; see select.py --show")
    return wrong


def draw(runs: Runs, path: Path) -> None:
    """The picture: test accuracy against seconds of training, medians over seeds, a panel for each task."""
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    styles: dict[Family, tuple[str, str]] = {
        "one process": ("Greys", "-"),
        "waits": ("Blues", "--"),
        "late": ("Greens", "-."),
        "decoupled": ("Oranges", "-"),
    }
    figure, panels = pyplot.subplots(1, len(TASKS), figsize=(11, 4.8), layout="constrained")
    for panel, task in zip(panels, TASKS.values(), strict=True):
        for family, (colors, style) in styles.items():
            rows = [name for name, row in ROWS.items() if row.family == family]
            for place, name in enumerate(rows):
                times_s, percents = _median_curve(runs[task.name, name])
                color = mpl.colormaps[colors](0.95 - 0.6 * place / len(rows))
                panel.plot(times_s, percents, style, color=color, label=ROWS[name].title)
        panel.axhline(100 * task.target, color="red", linewidth=0.8)
        panel.set(title=task.title, xlabel="seconds of training", ylabel="test accuracy, %")
        panel.set_ylim(100 * task.target - 20, 100 * task.target + 3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize="small")
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables and the picture from the results.

    Args:
        check: change nothing; end with 1 and say what is wrong if something is.
        folder: where README.md and results.jsonl lie.
    """
    runs = newest(read_runs(folder / "results.jsonl"))
    wrong = rebuild(folder / "README.md", render(runs), check=check)
    if not check:
        draw(runs, folder / PICTURE)
        return 0
    wrong += failures(runs)
    if not (folder / PICTURE).exists():
        wrong.append(f"{PICTURE}: missing; run table.py without --check")
    return report(wrong)


def _found(task: Task, runs: Runs) -> str:
    """Who was first, family by family."""
    best_s = _one_process_s(task, runs)
    parts = []
    for family, words in _FAMILIES.items():
        name = fastest(runs, task.name, family)
        if name is None:
            parts.append(f"{words}: none")
            continue
        found_s = median_s(runs[task.name, name])
        beside = "" if family == "one process" else f", {found_s / best_s:.2f} of that"
        parts.append(f"{words}: {ROWS[name].title}, {found_s:.1f} s{beside}")
    return f"The target is {100 * task.target:g} % of the test set. First there: {'; '.join(parts)}."


def _table(task: Task, runs: Runs) -> str:
    head = (
        "| | seconds to the target | of one process | samples to the target | samples/s | CPU s | last accuracy % "
        "| seeds |"
    )
    lines = [head, "|---|" + "---:|" * 7]
    for family in _FAMILIES:
        lines += [_line(task, name, runs) for name, row in ROWS.items() if row.family == family]
    return "\n".join(lines)


def _line(task: Task, name: str, runs: Runs) -> str:
    own = runs[task.name, name]
    if not own:
        return f"| {ROWS[name].title} | not run |" + " |" * 6
    found_s, best_s = median_s(own), _one_process_s(task, runs)
    cells = (
        ROWS[name].title,
        _spread([run.to_target_s for run in own], "{:.1f}"),
        f"{found_s / best_s:.2f}" if math.isfinite(found_s) and math.isfinite(best_s) else "-",
        _spread([run.samples_to_target for run in own], "{:,.0f}"),
        f"{median(run.samples_per_s for run in own):,.0f}",
        f"{median(run.cpu_s for run in own):.0f}",
        _spread([100 * run.points[-1].accuracy for run in own], "{:.1f}"),
        str(len(own)),
    )
    return f"| {' | '.join(cells)} |"


def _chosen() -> Iterator[str]:
    yield f"| | {' | '.join(task.title for task in TASKS.values())} |"
    yield "|---|" + "---|" * len(TASKS)
    for method in dict.fromkeys(row.method for row in ROWS.values()):
        titles = [row.title for row in ROWS.values() if row.method == method]
        choices = [CHOICES[task, method] for task in TASKS]
        cells = [f"{choice.rate:g}" + (f", {choice.synthesizer}" if choice.synthesizer else "") for choice in choices]
        yield f"| {'; '.join(titles)} | {' | '.join(cells)} |"


def _one_process_s(task: Task, runs: Runs) -> float:
    """The time of the fastest plain loop."""
    name = fastest(runs, task.name, "one process")
    return math.inf if name is None else median_s(runs[task.name, name])


def _spread(values: Sequence[float], form: str) -> str:
    """The median, and from the smallest to the largest."""
    words = [form.format(v) if math.isfinite(v) else "never" for v in (median(values), min(values), max(values))]
    return words[0] if len(set(words)) == 1 else f"{words[0]} ({words[1]} - {words[2]})"


def _median_curve(own: Sequence[Run]) -> tuple[list[float], list[float]]:
    """Seconds and percentages, evaluation by evaluation."""
    evaluations = list(zip(*(run.points for run in own), strict=True))
    times_s = [median(point.train_s for point in points) for points in evaluations]
    return times_s, [100 * median(point.accuracy for point in points) for points in evaluations]


def _missing(runs: Runs) -> Iterator[str]:
    finalists = {(task, fastest(runs, task, family)) for task in TASKS for family in _FAMILIES}
    for key, own in runs.items():
        needed = _FINALIST_SEEDS if key in finalists else _SEEDS
        if len(own) < needed:
            yield f"{key[0]} {key[1]}: needs {needed} seeds, has {len(own)}"


def _unlike(runs: Runs) -> Iterator[str]:
    for task in TASKS:
        for first, second in _ALIKE:
            curves = [
                {run.seed: [p.accuracy for p in run.points] for run in runs[task, row]} for row in (first, second)
            ]
            for seed in sorted(curves[0].keys() & curves[1].keys()):
                if curves[0][seed] != curves[1][seed]:
                    yield f"{task} seed {seed}: {first} and {second} must learn the same, and their accuracies differ"


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
