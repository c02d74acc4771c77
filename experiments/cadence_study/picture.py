"""How accurate is each arm, against how rarely it updates a parameter? On the line of the uniform arms, or off it?"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from experiments.cadence_study.arms import ARMS, CONTROLS
from experiments.cadence_study.config import RATES, TASKS
from experiments.cadence_study.results import Cell, Run, screened

__all__ = ["PICTURE", "draw"]

PICTURE = "held_out_against_period.png"
_MARKS = "ovs^Dp"


def draw(runs: Collection[Run], path: Path) -> None:
    """A row for each optimiser, a column for each task; equal samples, the screening's runs at what was chosen."""
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    found = screened(runs)
    figure, rows = pyplot.subplots(len(RATES), len(TASKS), figsize=(16, 5.6), sharex=True, layout="constrained")
    for optimizer, row in zip(RATES, rows, strict=True):
        for task, axes in zip(TASKS, row, strict=True):
            own = {arm: found.get(Cell("samples", task, optimizer, arm)) for arm in ARMS}
            points = {arm: _point(run) for arm, run in own.items() if run is not None and not run.diverged}
            line = [points[arm] for arm in CONTROLS if arm in points]
            if line:
                axes.plot(*zip(*line, strict=True), color="gray", marker=".", label="uniform")
            marks = iter(_MARKS)
            for number, (arm, mark) in enumerate((arm, next(marks)) for arm in ARMS if arm not in CONTROLS):
                if arm in points:
                    axes.plot(*points[arm], mark, color=f"C{number}", label=ARMS[arm].title)
            axes.set_xscale("log", base=2)
            axes.set_title(f"{optimizer}: {task.title}", fontsize="small")
        row[0].set_ylabel("held-out accuracy, %")
    for axes in rows[-1]:
        axes.set_xlabel("steps per update of a parameter")
    handles, labels = rows[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)


def _point(run: Run) -> tuple[float, float]:
    return run.steps / run.updates_per_parameter, 100 * (run.held_out_accuracy or 0.0)
