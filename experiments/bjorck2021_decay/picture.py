"""What do norms and turns of the weights look like over training, by when they decayed?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from experiments.bjorck2021_decay.config import ARMS, INVARIANT, NONE
from experiments.bjorck2021_decay.results import Case, Run

__all__ = ["PICTURE", "draw"]

PICTURE = "course.png"
_SHOWN = (NONE, "all", "first 25 %", "last 50 %")
_MEASURES = {"weight_norm": "norm of the weights", "angular_update": "angle of an update, degrees"}


def draw(runs: Mapping[Case, Sequence[Run]], path: Path) -> None:
    """A column for each arm, a row for each measure, a curve for each window: means over seeds."""
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(2, len(ARMS), figsize=(13, 5.6), sharex=True, layout="constrained")
    for (measure, label), row in zip(_MEASURES.items(), rows, strict=True):
        for arm, axes in zip(ARMS, row, strict=True):
            for window in _SHOWN:
                own = runs.get(Case(arm.optimizer, "" if window == NONE else arm.coupling, window), ())
                curves = [_curve(run, measure) for run in own if run.course]
                if curves:
                    found = [mean(values) for values in zip(*curves, strict=True)]
                    parts = [(i + 0.5) / len(found) for i in range(len(found))]
                    axes.plot(parts, found, marker=".", label=f"decay: {window}")
            axes.set_yscale("log")
            if measure == "weight_norm":
                axes.set_title(arm.title)
            else:
                axes.set_xlabel("part of the run")
        row[0].set_ylabel(label)
    rows[0][0].legend(fontsize="small")
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def _curve(run: Run, measure: str) -> list[float]:
    """The geometric mean over the weights before a normalisation."""
    columns = zip(*(run.course[f"{measure}/0.{name}"] for name in INVARIANT), strict=True)
    scale = 180 / math.pi if measure == "angular_update" else 1.0
    return [scale * math.exp(mean(map(math.log, values))) for values in columns]
