"""Do the results say what the README says they say?

Rebuilds the README's tables and the picture from results.jsonl; with --check only compares, and names what is wrong.

    python -m experiments.stage_rates.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

import tyro

from experiments.machine import described
from experiments.readme import rebuild, report
from experiments.spread import spread
from experiments.stage_rates.config import ARMS, SEEDS, SETTINGS, SOURCES, TASKS
from experiments.stage_rates.picture import PICTURE, draw
from experiments.stage_rates.results import FOLDER, Run, best_value, finalists, read_runs

__all__ = ["main", "render"]

_CASES = [(task.title, source) for task in TASKS for source in SOURCES]
_COLUMNS = [(arm.title, SETTINGS.steps) for arm in ARMS] + [(arm.title, SETTINGS.longer) for arm in ARMS if not arm.by]
"""Arms, and for how many steps."""


def render(runs: Sequence[Run]) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    return {
        "accuracy": _table(runs, _accuracy),
        "losses": _table(runs, lambda own: _spread((run.train_loss for run in own), ".3f")),
        "cost": _table(runs, lambda own: _spread((run.cpu_s for run in own), ".1f")),
        "tries": _tries(runs),
        "compared": _compared(runs),
        "machine": "\n".join(described(run.machine for run in runs)) or "not run",
    }


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables and the picture from the results.

    Args:
        check: change nothing; end with 1 and say what is wrong if the README is not what the results give.
        folder: where README.md and results.jsonl lie.
    """
    runs = read_runs(folder / "results.jsonl")
    wrong = rebuild(folder / "README.md", render(runs), check=check)
    if runs and not check:
        draw(runs, folder / PICTURE)
    return report(wrong)


def _table(runs: Sequence[Run], cell: Callable[[Sequence[Run]], str]) -> str:
    titles = [arm if steps == SETTINGS.steps else f"{arm}, {steps} steps" for arm, steps in _COLUMNS]
    lines = [f"| network, source | {' | '.join(titles)} |", "|---|" + "---:|" * len(titles)]
    for task, source in _CASES:
        own = [finalists(runs, (task, source, arm), steps=steps) for arm, steps in _COLUMNS]
        cells = [cell(each) if len(each) == len(SEEDS) else "not run" for each in own]
        lines.append(f"| {task}; {source} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _accuracy(own: Iterable[Run]) -> str:
    return _spread((None if run.test_accuracy is None else 100 * run.test_accuracy for run in own), ".2f")


def _spread(values: Iterable[float | None], form: str) -> str:
    found = list(values)
    numbers = [value for value in found if value is not None]
    diverged = f"; {len(found) - len(numbers)} diverged" if len(numbers) < len(found) else ""
    return f"{spread(numbers, form)}{diverged}" if numbers else "diverged"


def _tries(runs: Sequence[Run]) -> str:
    """Held-out accuracy of what was tried with the first seed; the one taken in bold."""
    lines = ["| network, source | rates of | held-out accuracy, %, by what was tried |", "|---|---|---|"]
    for task, source in _CASES:
        for arm in ARMS:
            case = (task, source, arm.title)
            tried = {
                run.value: run
                for run in runs
                if run.case == case and run.seed == SEEDS[0] and run.settings["steps"] == SETTINGS.steps
            }
            taken = best_value(runs, case)
            texts = [_tried(value, run, bold=value == taken) for value, run in sorted(tried.items())]
            lines.append(f"| {task}; {source} | {arm.title} | {', '.join(texts) or 'not run'} |")
    return "\n".join(lines)


def _tried(value: float, run: Run, *, bold: bool) -> str:
    found = "diverged" if run.held_out_accuracy is None else f"{100 * run.held_out_accuracy:.2f}"
    text = f"{value:g}: {found}"
    return f"**{text}**" if bold else text


def _compared(runs: Sequence[Run]) -> str:
    """Slope, curvature and line-search rate that stages see, over those of the true loss; by stage, from the input."""
    lines = [
        "| network, source | steps | stage | slope, true / seen | curvature, seen / true | rate, seen / true |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for task, source in _CASES:
        for steps in (SETTINGS.early, SETTINGS.steps):
            own = [run.compared for run in finalists(runs, (task, source, "SGD"), steps=steps) if run.compared]
            for stage in range(len(own[0]["seen_gradient"]) if len(own) == len(SEEDS) else 0):
                slopes = [each["true_gradient"][stage] / each["seen_gradient"][stage] for each in own]
                bends = [each["seen_hessian"][stage] / each["true_hessian"][stage][stage] for each in own]
                rates = [1 / (slope * bend) for slope, bend in zip(slopes, bends, strict=True)]
                cells = " | ".join(f"{median(values):.2g} ({_range(values)})" for values in (slopes, bends, rates))
                lines.append(f"| {task}; {source} | {steps} | {stage} | {cells} |")
            if len(own) < len(SEEDS):
                lines.append(f"| {task}; {source} | {steps} | | not run | | |")
    return "\n".join(lines)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2g} to {max(values):.2g}"


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
