"""Does the curvature that was found explain what the decay does?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from scipy.stats import spearmanr

from experiments.bjorck2021_decay.bend import LOOKED_AT, Bend
from experiments.bjorck2021_decay.config import OPTIMIZERS
from experiments.bjorck2021_decay.results import Case, Run
from experiments.machine import described
from experiments.spread import spread

__all__ = ["BENDS", "curves", "draw_bends", "render_bends"]

BENDS = "curvature.png"
_PARTS = {0.75: "after 75 %, before the rate drops", 1.0: "at the end"}
_COLUMNS: Mapping[str, str] = {
    "norm": "norm of the weights",
    "top": "largest eigenvalue",
    "trace": "trace",
    "relative top": "largest, relative",
    "relative trace": "trace, relative",
    "gradient by norm": "‖g‖ ‖W‖",
    "sharpness": "sharpness",
    "gradient rate": "eta* of the gradient",
    "step rate": "eta* of the step",
    "loss": "loss",
}
_SHOWN = ("top", "relative top", "relative trace", "sharpness", "gradient rate")
_STYLES = dict(zip(LOOKED_AT, ("k-", "C3-", "C0--", "C1--", "C2:"), strict=True))


def render_bends(bends: Collection[Bend], runs: Iterable[Run]) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers.

    Args:
        bends: what was found.
        runs: those that count, which were looked at.
    """
    return {
        "curvature": _by_part(bends, _table),
        "curvature ranks": _ranks(bends),
        "curvature layers": _layers(bends),
        "curvature runs": _reproduced(bends, runs),
    }


def curves(bends: Iterable[Bend], optimizer: str, window: str, name: str) -> dict[float, list[float]]:
    """A measure by the part of the run, a value per seed."""
    found: dict[float, list[float]] = {}
    for own in bends:
        if (own.optimizer, own.window) == (optimizer, window):
            found.setdefault(own.part, []).append(own.values[name])
    return found


def draw_bends(bends: Collection[Bend], path: Path) -> None:
    """A row for each optimiser, a column for each measure, a curve for each window: means over seeds."""
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(2, len(_SHOWN), figsize=(14, 6), sharex=True, layout="constrained")
    for optimizer, row in zip(OPTIMIZERS, rows, strict=True):
        for name, axes in zip(_SHOWN, row, strict=True):
            for window, style in _STYLES.items():
                found = {part: mean(values) for part, values in curves(bends, optimizer, window, name).items()}
                axes.plot(list(found), list(found.values()), style, marker=".", label=f"decay: {window}")
            axes.set_title(f"{optimizer}: {_COLUMNS[name]}", fontsize=10)
            _scale(axes, bends, optimizer, name)
    figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(_STYLES))
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


def _scale(axes: Any, bends: Collection[Bend], optimizer: str, name: str) -> None:
    means = [mean(own) for window in _STYLES for own in curves(bends, optimizer, window, name).values()]
    if means and min(means) > 0:
        axes.set_yscale("log")


def _by_part(bends: Collection[Bend], table: Callable[[str, float, Collection[Bend]], str]) -> str:
    parts = [
        f"{optimizer}, {title}:\n\n{table(optimizer, part, bends)}"
        for optimizer in OPTIMIZERS
        for part, title in _PARTS.items()
    ]
    return "\n\n".join(parts)


def _table(optimizer: str, part: float, bends: Collection[Bend]) -> str:
    lines = [f"| decay | test, % | {' | '.join(_COLUMNS.values())} |", "|---|" + "---:|" * (len(_COLUMNS) + 1)]
    for window in LOOKED_AT:
        own = [found for found in bends if (found.optimizer, found.window, found.part) == (optimizer, window, part)]
        cells = [_cell([found.values[name] for found in own]) for name in _COLUMNS] if own else []
        tested = [spread([100 * found.test_accuracy for found in own], ".2f")] if own else ["not run"]
        lines.append(f"| {window} | {' | '.join([*tested, *cells])} |")
    return "\n".join(lines)


def _ranks(bends: Collection[Bend]) -> str:
    """Spearman's correlation of each measure with test accuracy, over runs."""
    titles = [f"{optimizer}, {title}" for optimizer in OPTIMIZERS for title in _PARTS.values()]
    lines = [f"| measure | {' | '.join(titles)} |", "|---|" + "---:|" * len(titles)]
    groups = [
        [found for found in bends if (found.optimizer, found.part) == (optimizer, part)]
        for optimizer in OPTIMIZERS
        for part in _PARTS
    ]
    for name, title in _COLUMNS.items():
        cells = [_rank([found.values[name] for found in own], [found.test_accuracy for found in own]) for own in groups]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines.append(f"| *runs* | {' | '.join(str(len(own)) for own in groups)} |")
    return "\n".join(lines)


def _rank(values: Sequence[float], accuracies: Sequence[float]) -> str:
    if len(values) < 3:
        return "not run"
    return f"{spearmanr(values, accuracies).statistic:+.2f}" if len(set(values)) > 1 else "all equal"


def _layers(bends: Collection[Bend]) -> str:
    """eta* along the optimiser's own step, layer by layer, of all layers together."""
    names = list(dict.fromkeys(name for own in bends for name in own.values if name.startswith("step rate/")))
    lines = [
        f"| | decay | {' | '.join('layer ' + name.removeprefix('step rate/') for name in names)} |",
        "|---|---|" + "---:|" * len(names),
    ]
    for optimizer in OPTIMIZERS:
        for window in LOOKED_AT:
            found = [curves(bends, optimizer, window, name).get(0.75, []) for name in names]
            if all(found):
                lines.append(f"| {optimizer} | {window} | {' | '.join(map(_cell, found))} |")
    return "\n".join(lines)


def _reproduced(bends: Collection[Bend], runs: Iterable[Run]) -> str:
    if not bends:
        return "not run"
    known = {(run.case, run.seed): run.test_accuracy for run in runs}
    made = {(Case(own.optimizer, own.coupling, own.window), own.seed): own.test_accuracy for own in bends}
    same = sum(known.get(key) == accuracy for key, accuracy in made.items())
    minutes = sum(own.cpu_s for own in bends) / 60
    return "\n".join(
        [
            f"{len(made)} runs were made again, {same} of them with the test accuracy of `results.jsonl` to the last "
            f"sample; {minutes:.1f} minutes of a core with their training.",
            "",
            *described(own.machine for own in bends),
        ]
    )


def _cell(values: Sequence[float]) -> str:
    """Two digits behind the point, fewer for large numbers."""
    size = abs(mean(values))
    return spread(values, ".0f" if size >= 100 else ".1f" if size >= 10 else ".2f" if size >= 0.1 else ".3f")
