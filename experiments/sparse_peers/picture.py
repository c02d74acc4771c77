"""How accurate is a network whose back-propagation took that part of full training's? A picture of all rules."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import fmean

from experiments.sparse_peers.config import SMALL, TASKS, Cell
from experiments.sparse_peers.results import Run, Timing, counted, differences, ratios
from experiments.sparse_peers.rules import FULL, OPTIMIZERS, RULES

__all__ = ["PICTURE", "draw"]

PICTURE = "accuracy_against_time.png"
_MARKS = "osv^<>DPX*dh"


def draw(runs: Collection[Run], timings: Sequence[Timing], path: Path) -> None:
    """A row for each optimiser, a column for each task; full training is where the lines cross."""
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    own = counted(runs)
    figure, rows = pyplot.subplots(
        len(OPTIMIZERS), len(TASKS), figsize=(3.4 * len(TASKS), 6.4), sharex=True, squeeze=False, layout="constrained"
    )
    for optimizer, row in zip(OPTIMIZERS, rows, strict=True):
        for task, axes in zip(TASKS, row, strict=True):
            axes.axhline(0.0, color="gray", linewidth=1)
            axes.axvline(1.0, color="gray", linewidth=1)
            for number, (rule, mark) in enumerate(zip(RULES, _MARKS, strict=True)):
                gains = differences(own, Cell(SMALL, task, optimizer, rule)).values()
                time = ratios(timings, size=SMALL, net=task.net, optimizer=optimizer, rule=rule)
                if rule != FULL and gains and time is not None:
                    point = time.backward, fmean(gains)
                    axes.plot(*point, mark, color=f"C{number % 10}", label=RULES[rule].title)
            axes.set_title(f"{optimizer}: {task.title}", fontsize="small")
        row[0].set_ylabel("points over full training")
    for axes in rows[-1]:
        axes.set_xlabel("back-propagation, of full training's")
    handles, labels = rows[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)
