"""What do norms and turns of the weights look like over training, by when they decayed?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from experiments.bjorck2021_decay.config import ARMS, INVARIANT, NONE, Settings
from experiments.bjorck2021_decay.results import Case, Run

__all__ = ["PICTURE", "draw"]

PICTURE = "course.png"
_SHOWN = {NONE: "k-", "all": "C3-", "first 25 %": "C0--", "third 25 %": "C1--", "last 50 %": "C2:"}
_MEASURES = {"weight_norm": "norm of the weights", "angular_update": "angle of an update, degrees"}


def draw(runs: Mapping[Case, Sequence[Run]], path: Path, *, settings: Settings) -> None:
    """A column for each arm, a row for each measure, a curve for each window: means over seeds."""
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(2, len(ARMS), figsize=(13, 6), sharex=True, sharey="row", layout="constrained")
    for (measure, label), row in zip(_MEASURES.items(), rows, strict=True):
        for arm, axes in zip(ARMS, row, strict=True):
            for window, style in _SHOWN.items():
                own = runs.get(Case(arm.optimizer, "" if window == NONE else arm.coupling, window), ())
                curves = [_curve(run, measure) for run in own if run.course]
                if curves:
                    found = [mean(values) for values in zip(*curves, strict=True)]
                    parts = [(i + 0.5) / len(found) for i in range(len(found))]
                    axes.plot(parts, found, style, marker=".", label=f"decay: {window}")
            axes.axvline(settings.drop_at, color="gray", linewidth=0.8)
            axes.set_yscale("log")
            if measure == "weight_norm":
                axes.set_title(arm.title)
            else:
                axes.set_xlabel("part of the run")
        row[0].set_ylabel(label)
    for row in rows:
        _label(row[0])
    figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(_SHOWN))
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def _label(axes: Any) -> None:
    """Write ticks as plain numbers, at 1, 2 and 5 of each power of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _curve(run: Run, measure: str) -> list[float]:
    """The geometric mean over the weights before a normalisation."""
    columns = zip(*(run.course[f"{measure}/0.{name}"] for name in INVARIANT), strict=True)
    scale = 180 / math.pi if measure == "angular_update" else 1.0
    return [scale * math.exp(mean(map(math.log, values))) for values in columns]
