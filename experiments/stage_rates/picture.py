"""How far along its step does a stage see the minimum, and where is it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.stage_rates.config import SETTINGS, SOURCES, TASKS
from experiments.stage_rates.results import Run, finalists

__all__ = ["PICTURE", "draw", "rates"]

PICTURE = "seen.png"
_UPHILL, _NONE = 2e-3, 5e2
"""Where points without a rate are drawn: the loss rises along the step; it falls, and curves down."""
_LEAST, _GREATEST = 1e-2, 1e2
"""Rates beyond are drawn here."""
_TICKS = {_UPHILL: "uphill", 0.01: "0.01", 0.1: "0.1", 1.0: "1", 10.0: "10", 100.0: "100", _NONE: "none"}


def draw(runs: Sequence[Run], path: Path) -> None:
    """A row for each network, a column for each source, a point for each stage but the last of each seed."""
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(
        len(TASKS), len(SOURCES), figsize=(11, 7.4), sharex=True, sharey=True, layout="constrained"
    )
    for task, row in zip(TASKS, rows, strict=True):
        for source, axes in zip(SOURCES, row, strict=True):
            axes.loglog([_LEAST, _GREATEST], [_LEAST, _GREATEST], color="gray", linewidth=0.8)
            for steps, fill in ((SETTINGS.early, "none"), (SETTINGS.steps, "full")):
                for stage, true, seen in _points(finalists(runs, (task.title, source, "SGD"), steps=steps)):
                    axes.plot(
                        true,
                        seen,
                        "o^s"[stage],
                        color=f"C{stage}",
                        fillstyle=fill,
                        label=f"stage {stage}, {steps} steps",
                    )
            axes.set_title(f"{task.title}; {source}", fontsize="small")
            axes.set_xticks(list(_TICKS), list(_TICKS.values()), fontsize="small")
            axes.set_yticks(list(_TICKS)[1:], list(_TICKS.values())[1:], fontsize="small")
            axes.minorticks_off()
            axes.grid(alpha=0.3)
        row[0].set_ylabel("rate that the stage sees", fontsize="small")
    for axes in rows[-1]:
        axes.set_xlabel("rate for the true loss", fontsize="small")
    _explain(figure, [axes for row in rows for axes in row])
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)


def rates(compared: dict[str, Any], stage: int) -> tuple[float, float]:
    """Slope / curvature of the true loss, and of the one that a stage sees; at the edges, if there is no such rate."""
    return (
        _rate(compared["true_gradient"][stage], compared["true_hessian"][stage][stage]),
        _rate(compared["seen_gradient"][stage], compared["seen_hessian"][stage]),
    )


def _rate(slope: float, curvature: float) -> float:
    if slope <= 0:
        return _UPHILL
    return min(max(slope / curvature, _LEAST), _GREATEST) if curvature > 0 else _NONE


def _points(own: Sequence[Run]) -> Iterator[tuple[int, float, float]]:
    """Stage, true rate, seen rate."""
    for run in own:
        for stage in range(len(run.compared.get("seen_gradient", [])) - 1):
            yield stage, *rates(run.compared, stage)


def _explain(figure: Any, panels: Sequence[Any]) -> None:
    """A legend below all panels, each of its lines once."""
    found = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    named = sorted(found)
    figure.legend([found[label] for label in named], named, loc="outside lower center", ncols=3, fontsize="small")
