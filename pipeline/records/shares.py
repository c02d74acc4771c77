"""Where did the time of each stage go? A band per stage, all beside one another, drawn from the run's metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_shares", "read_shares"]

_SHARES = {
    "fresh_share": ("fresh", "#4477aa"),
    "dropped_share": ("dropped", "#ee6677"),
    "waiting_share": ("waiting", "#dddddd"),
}
_WIDTH_INCHES = 4.5
_BAND_INCHES = 0.24
_MOST_POINTS = 200
"""Of a band; more would not be seen."""

Shares = Mapping[int, Sequence[Mapping[str, Any]]]
"""By stage, lines of metrics that say how an interval was spent."""


def read_shares(run: Path) -> Shares:
    """What the metrics of a run say of it; of a run that still goes on, as far as it is written."""
    files = sorted((run / "metrics").glob("stage-*.jsonl"), key=_stage)
    found = {}
    for file in files:
        whole = (line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n"))
        lines = [line for line in map(json.loads, whole) if "fresh_share" in line]
        found[_stage(file)] = lines[:: math.ceil(len(lines) / _MOST_POINTS) or 1]
    return found


def draw_shares(shares: Shares) -> Figure:
    """A band per stage, as high as all of its time, over the steps."""
    from matplotlib.figure import Figure  # slow to load
    from matplotlib.patches import Patch

    figure = Figure(figsize=(_WIDTH_INCHES, 1.4 + _BAND_INCHES * len(shares)), layout="constrained")
    axes = figure.add_subplot()
    for row, lines in enumerate(shares.values()):
        steps = [line["step"] for line in lines]
        base = [row + 0.45] * len(lines)  # downwards is up: the first stage is at the top
        for name, (_, color) in _SHARES.items():
            top = [low - 0.9 * line[name] for low, line in zip(base, lines, strict=True)]
            axes.fill_between(steps, base, top, color=color, linewidth=0)
            base = top
    axes.set(xlabel="step", ylabel="stage", ylim=(len(shares) - 0.5, -0.5))
    axes.set_yticks(range(len(shares)), [str(stage) for stage in shares], fontsize=8)
    patches = [Patch(color=color, label=label) for label, color in _SHARES.values()]
    figure.legend(handles=patches, loc="outside upper center", ncols=len(patches), frameon=False)
    return figure


def _stage(file: Path) -> int:
    return int(file.stem.split("-")[1])
