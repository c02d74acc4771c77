"""What do rates, interactions and training look like?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from experiments.wolinski2023_partition.config import ADAM, ARMS, FIRST_ORDER, SGD, TASKS, Task, arms_of
from experiments.wolinski2023_partition.results import Point, Run, Trace, counted
from experiments.wolinski2023_partition.tracing import DIRECTIONS

__all__ = ["draw_coupling", "draw_courses", "draw_eta"]

_RULE = "cubic 1"
_MOST_LAYERS = 9
"""Of a network of more, every second, third... layer has curves."""
_COLOURS = {arm: f"C{index}" for index, arm in enumerate(arm for arm in ARMS if arm not in FIRST_ORDER)} | {
    ADAM: "black",
    SGD: "darkgray",
}
_MEASURES: dict[str, Callable[[Point], float]] = {
    "training loss": lambda point: point.train_loss,
    "held-out error": lambda point: 1 - point.held_out_accuracy,
}


def draw_eta(traces: Sequence[Trace], path: Path) -> None:
    """A row for each training that was looked at, a column for each direction, a curve for each tensor."""
    rows = _rows(traces)
    figure, grid = _figure(len(rows), 2, (12, 2.7 * len(rows)))
    for (task, arm), own in zip(rows, grid, strict=True):
        for direction, axes in zip(DIRECTIONS, own, strict=True):
            for trace in traces:
                if (trace.task, trace.arm, trace.direction) == (task, arm, direction):
                    _draw_rates(axes, trace)
                    axes.set_title(f"{task}, trained by {arm} ({trace.rate:g}), along the {direction}", fontsize=9)
        own[0].set_ylabel("eta*")
    for axes in grid[-1]:
        axes.set_xlabel("step")
    figure.suptitle(
        "Rates that full H with cubic regularisation (1) asks for; dashed: biases; black: S = 1", fontsize=10
    )
    _save(figure, path)


def draw_coupling(traces: Sequence[Trace], path: Path) -> None:
    """A row for each direction, a column for each training: how strongly each two tensors interact."""
    columns = _rows(traces)
    figure, grid = _figure(2, len(columns), (3.2 * len(columns), 7.6))
    shown: Any = None
    for direction, own in zip(DIRECTIONS, grid, strict=True):
        for (task, arm), axes in zip(columns, own, strict=True):
            for trace in traces:
                if (trace.task, trace.arm, trace.direction) == (task, arm, direction):
                    shown = axes.imshow(trace.interactions, vmin=0, vmax=1, cmap="viridis")
                    axes.set_title(f"{task},\n{arm}, along the {direction}", fontsize=9)
                    axes.set_xlabel("tensor, from the input on" if direction == DIRECTIONS[-1] else "")
    if shown is not None:
        figure.colorbar(shown, ax=grid, label="|H_st| / sqrt |H_ss H_tt|", shrink=0.6)
    _save(figure, path)


def draw_courses(runs: Sequence[Run], path: Path) -> None:
    """A row for each task: training loss and held-out error by processor time, at the best setting of each arm."""
    tasks = [task for task in TASKS if any(_longest(runs, task, arm) for arm in arms_of(task))]
    figure, grid = _figure(len(tasks), 2, (12, 3.2 * len(tasks)))
    for task, own in zip(tasks, grid, strict=True):
        for axes, (label, measure) in zip(own, _MEASURES.items(), strict=True):
            for arm in arms_of(task):
                _draw_course(axes, _longest(runs, task, arm), measure, arm)
            axes.set_xlabel("processor time, s")
            axes.set_ylabel(label)
            axes.set_title(task.name, fontsize=9)
            axes.set_yscale("log")
        own[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def _rows(traces: Sequence[Trace]) -> list[tuple[str, str]]:
    order = [task.name for task in TASKS]
    return sorted({(trace.task, trace.arm) for trace in traces}, key=lambda row: (order.index(row[0]), row[1]))


def _draw_rates(axes: Any, trace: Trace) -> None:
    from matplotlib import colormaps

    steps = [look.step for look in trace.looks]
    colours = colormaps["viridis"]
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in trace.names))
    shown = layers[:: 1 + len(layers) // _MOST_LAYERS]
    for index, name in enumerate(trace.names):
        if name.rpartition(".")[0] not in shown:
            continue
        values = [float("nan") if (eta := look.rates[_RULE]) is None else eta[index] for look in trace.looks]
        is_bias = name.endswith("bias")
        axes.plot(
            steps,
            values,
            color=colours(index / max(1, len(trace.names) - 1)),
            linewidth=0.7 if is_bias else 1.5,
            linestyle="--" if is_bias else "-",
            label=name,
        )
    ones = [float("nan") if (eta := look.rates["one"]) is None else eta[0] for look in trace.looks]
    axes.plot(steps, ones, "k", linewidth=2, label="S = 1")
    axes.axhline(0, color="gray", linewidth=0.6)
    size = sorted(abs(value) for look in trace.looks for value in look.rates[_RULE] or () if value)
    axes.set_yscale("symlog", linthresh=size[len(size) // 3] if size else 1.0, linscale=1.5)
    axes.yaxis.get_major_locator().set_params(numticks=7)
    if trace.direction == DIRECTIONS[-1]:
        axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))


def _longest(runs: Sequence[Run], task: Task, arm: str) -> list[Run]:
    timed = counted(runs, task, arm, timed=True) if arm in FIRST_ORDER else []
    return [run for run in timed or counted(runs, task, arm) if not run.diverged]


def _draw_course(axes: Any, runs: Sequence[Run], measure: Callable[[Point], float], arm: str) -> None:
    """Every seed thin; the mean over them where all were looked at."""
    if not runs:
        return
    colour = _COLOURS[arm]
    for run in runs:
        axes.plot(
            [point.cpu_s for point in run.points],
            [measure(point) for point in run.points],
            color=colour,
            linewidth=0.6,
            alpha=0.5,
        )
    together = list(zip(*(run.points for run in runs), strict=False))
    axes.plot(
        [mean(point.cpu_s for point in points) for points in together],
        [mean(map(measure, points)) for points in together],
        color=colour,
        marker=".",
        label=ARMS[arm].title,
    )


def _figure(num_rows: int, num_columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(num_rows, num_columns, figsize=size, layout="constrained", squeeze=False)


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, dpi=75, metadata={"Software": None})
    pyplot.close(figure)
