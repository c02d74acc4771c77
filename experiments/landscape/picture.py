"""What do slices and estimates look like? Drawn from the results alone: what was not run is left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from experiments.landscape.config import METHODS, NUM_STAGES, SEEDS, SETTINGS
from experiments.landscape.numbers import part_of
from experiments.landscape.results import Record, select
from experiments.landscape.slices import PLANE_STEPS

__all__ = ["PICTURES", "draw"]

PICTURES = ("lines.png", "planes.png", "estimates.png")
_LINES = {"used": "C0", "used, below the last": "C1", "true": "k"}
_DECOUPLED = tuple(METHODS)[1:]


def draw(records: Collection[Record], folder: Path) -> None:
    """Draw all pictures."""
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    for name, make in zip(PICTURES, (_lines, _planes, _estimates), strict=True):
        figure = make(pyplot, records)
        figure.savefig(folder / name, dpi=90, metadata={"Software": None})
        pyplot.close(figure)


def _lines(pyplot: Any, records: Collection[Record]) -> Any:
    """A row for each method, a column for each step: the true change, and dashed the implied one."""
    figure, rows = pyplot.subplots(
        len(METHODS), len(SETTINGS.checkpoints), figsize=(10.5, 2.2 * len(METHODS)), layout="constrained"
    )
    for axes, step in zip(rows[0], SETTINGS.checkpoints, strict=True):
        axes.set_title(f"step {step}", fontsize="small")
    for axes in rows[-1]:
        axes.set_xlabel("real steps", fontsize="small")
    for axes, record in _placed(rows, tuple(METHODS), records):
        for name, color in _LINES.items():
            line = record.lines[name]
            start = line["true"][line["steps"].index(0.0)]
            axes.plot(line["steps"], [value - start for value in line["true"]], color=color, label=name)
            axes.plot(line["steps"], line["implied"], "--", color=color)
        axes.set_xscale("symlog", linthresh=1, base=2, linscale=0.7)
        axes.set_yscale("symlog", linthresh=0.01)
        axes.axvline(0, color="gray", linewidth=0.5)
        axes.axhline(0, color="gray", linewidth=0.5)
        axes.set_xticks([-16, -4, -1, 0, 1, 4, 16], ["-16", "-4", "-1", "0", "1", "4", "16"])
    handles, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, [f"step: {label}" for label in labels], loc="outside lower center", ncols=3)
    figure.supylabel("change of the loss: true (solid) and implied (dashed)", fontsize="medium")
    return figure


def _planes(pyplot: Any, records: Collection[Record]) -> Any:
    """A row for each decoupled method; for each step a column of true and one of implied changes."""
    kinds = ("true", "implied")
    figure, rows = pyplot.subplots(
        len(_DECOUPLED), 2 * len(SETTINGS.checkpoints), figsize=(13, 2 * len(_DECOUPLED)), layout="constrained"
    )
    for axes, step in zip(rows[0][::2], SETTINGS.checkpoints, strict=True):
        axes.set_title(f"step {step}, true", fontsize="small")
    for axes in rows[0][1::2]:
        axes.set_title("implied", fontsize="small")
    for offset, kind in enumerate(kinds):
        for axes, record in _placed([row[offset::2] for row in rows], _DECOUPLED, records):
            if record.plane is not None:
                _contours(figure, axes, record.plane[kind])
    for axes in rows[-1]:
        axes.set_xlabel("used steps", fontsize="small")
    figure.supylabel("random direction, in norms of the filters", fontsize="medium")
    return figure


def _contours(figure: Any, axes: Any, values: Sequence[Sequence[float]]) -> None:
    """The change from where the plane begins; the dots are there and one real step on."""
    along, across = PLANE_STEPS
    start = values[along.index(0.0)][across.index(0.0)]
    turned = [[row[k] - start for row in values] for k in range(len(across))]
    drawn = axes.contourf(along, across, turned, levels=12, cmap="viridis")
    figure.colorbar(drawn, ax=axes, format="%.2g", pad=0.01).ax.tick_params(labelsize="xx-small")
    axes.plot([0, 1], [0, 0], "w.-", markersize=3)


def _estimates(pyplot: Any, records: Collection[Record]) -> Any:
    """A row for each step, a column for each stage below the last: cosines against B, means over seeds."""
    steps, stages = SETTINGS.checkpoints, range(NUM_STAGES - 1)
    figure, rows = pyplot.subplots(
        len(steps), len(stages), figsize=(10.5, 2.6 * len(steps)), sharex=True, sharey=True, layout="constrained"
    )
    for row, step in zip(rows, steps, strict=True):
        for axes, stage in zip(row, stages, strict=True):
            for color, method in enumerate(METHODS):
                own = select(records, method, step)
                if own:
                    axes.plot(*_curve(own, stage, "used_to_truth"), f"C{color}-", label=f"{method}: with the truth")
                    axes.plot(*_curve(own, stage, "used_pairwise"), f"C{color}:", label=f"{method}: of each other")
            axes.set_title(f"step {step}, stage {stage}", fontsize="small")
            axes.set_xscale("log", base=2)
            axes.axvline(SETTINGS.batch_size, color="gray", linewidth=0.8)
            axes.axhline(0, color="gray", linewidth=0.5)
    handles, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
    for axes in rows[-1]:
        axes.set_xlabel("samples of an estimate, B", fontsize="small")
    figure.supylabel("cosine of estimates", fontsize="medium")
    return figure


def _placed(rows: Any, methods: Sequence[str], records: Collection[Record]) -> Any:
    """The panel of each record of the first seed."""
    for row, method in zip(rows, methods, strict=True):
        for column, (axes, step) in enumerate(zip(row, SETTINGS.checkpoints, strict=True)):
            axes.tick_params(labelsize="x-small")
            axes.set_axis_off()  # a panel of what was not run stays empty
            for record in select(records, method, step):
                if record.seed == SEEDS[0]:
                    axes.set_axis_on()
                    if column == 0:
                        axes.set_ylabel(method, fontsize="small")
                    yield axes, record


def _curve(records: Sequence[Record], stage: int, name: str) -> tuple[list[int], list[float]]:
    parts: list[Any] = [part_of(record, f"stage {stage}") for record in records]
    sizes = SETTINGS.batch_sizes
    return list(sizes), [mean(part[str(size)][name] for part in parts) for size in sizes]
