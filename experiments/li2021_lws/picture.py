"""How accurate is a network whose back-propagation was so much faster? A picture of all rules on all tasks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from experiments.li2021_lws.config import DATA, FULL_NETS, NETS, PROBABILITIES, STATIC, TOPS, Rule, Task
from experiments.li2021_lws.results import Counted, Run, counted, shortened, speed_up

__all__ = ["PICTURE", "draw"]

PICTURE = "accuracy_against_speed_up.png"
_MARKERS = {"head": "o", "third": "s", "half": "^", "bottom": "v", "ends": "D"}


def draw(runs: Collection[Run], path: Path) -> None:
    """A row for each data set, a column for each network: the first seed, and full SGD with fewer steps."""
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    own, lengths = counted(runs), shortened(runs)
    nets = [net for net in NETS if net not in FULL_NETS or any(run.net == net for run in runs)]
    figure, rows = pyplot.subplots(
        len(DATA), len(nets), figsize=(3.4 * len(nets), 6.4), sharex=True, squeeze=False, layout="constrained"
    )
    for data, row in zip(DATA, rows, strict=True):
        for net, axes in zip(nets, row, strict=True):
            _draw_task(axes, (net, data), own, lengths.get((net, data), ()))
            axes.set_title(f"{NETS[net].title}, {data}", fontsize="medium")
            axes.set_xscale("log")
        row[0].set_ylabel("test accuracy, %")
    for axes in rows[-1]:
        axes.set_xlabel("back-propagation faster by")
    rows[0][0].legend(fontsize="small")
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def _draw_task(axes: Any, task: Task, own: Counted, lengths: Sequence[Run]) -> None:
    full = [run for run in lengths if run.part == 1]
    points = [
        (float(part), 100 * mean(found))
        for part in sorted({run.part for run in lengths})
        if (found := [r.test_accuracy for r in lengths if r.part == part and r.test_accuracy is not None])
    ]
    _draw_line(axes, points, color="gray", marker=".", label="full SGD, fewer steps")
    for top in TOPS:
        rules = [Rule(top, probability) for probability in PROBABILITIES]
        _draw_line(axes, _points(own, task, rules, full), marker=_MARKERS[top], label=f"{top} or all")
    for rule in STATIC:
        points = _points(own, task, [rule], full)
        _draw_line(axes, points, linestyle="", color="black", marker=_MARKERS[rule.learns], label=rule.title)


def _points(own: Counted, task: Task, rules: Sequence[Rule], full: Sequence[Run]) -> list[tuple[float, float]]:
    found = []
    for rule in rules:
        run = next(iter(own.get((task, rule), ())), None)
        faster = None if run is None else speed_up(run, full[0] if full else None)
        if run is not None and run.test_accuracy is not None and faster is not None:
            found.append((faster, 100 * run.test_accuracy))
    return found


def _draw_line(axes: Any, points: Sequence[tuple[float, float]], **style: Any) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), **{"linewidth": 1, "markersize": 5, **style})
