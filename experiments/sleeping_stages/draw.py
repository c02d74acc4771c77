"""What do the results look like?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["draw"]

_COLORS = {"F": "#4c78a8", "B": "#f58518", "W": "#ffb870"}


def draw(spans: Path, ratios: Mapping[tuple[int, str], float], folder: Path) -> None:
    """Timelines of some runs, and all methods' time per microbatch.

    Args:
        spans: spans.jsonl.
        ratios: time per microbatch over the slowest stage's own, by (ranks, method).
        folder: where timeline.png, pause.png and time_per_microbatch.png are written.
    """
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    lines = [json.loads(line) for line in spans.read_text().splitlines()]
    newest = {(line["group"], line["method"], line["ranks"]): line for line in lines}
    most = max(line["ranks"] for line in newest.values())
    for group, name in (("equal", "timeline"), ("paused", "pause")):
        panels = [line for line in newest.values() if line["group"] == group and line["ranks"] == most]
        if panels:
            _draw_timelines(panels, folder / f"{name}.png")
    _draw_ratios(ratios, folder / "time_per_microbatch.png")


def _draw_timelines(panels: Sequence[Mapping[str, Any]], path: Path) -> None:
    from matplotlib import pyplot

    num_ranks = panels[0]["ranks"]
    height = 0.5 + len(panels) * (0.5 + 0.16 * num_ranks)
    figure, all_axes = pyplot.subplots(len(panels), figsize=(10, height), layout="constrained", squeeze=False)
    for axes, panel in zip(all_axes[:, 0], panels, strict=True):
        for rank, row in enumerate(panel["rows"]):
            for operation, color in _COLORS.items():
                bars = [(start / 1e4, (end - start) / 1e4) for name, start, end in row if name == operation]
                axes.broken_barh(bars, (rank - 0.4, 0.8), facecolors=color, edgecolor="white", linewidth=0.2)
        axes.set(title=panel["method"], yticks=range(num_ranks), ylabel="stage", ylim=(num_ranks - 0.5, -0.5))
        axes.set_xlim(0, max(end for row in panel["rows"] for _, _, end in row) / 1e4)
        axes.title.set_fontsize("medium")
    all_axes[-1, 0].set_xlabel("s")
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=_COLORS[name]) for name in ("F", "B")]
    figure.legend(handles, ["forward", "backward"], loc="outside upper right", ncols=2, fontsize="small")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _draw_ratios(ratios: Mapping[tuple[int, str], float], path: Path) -> None:
    from matplotlib import pyplot

    ranks = sorted({n for n, _ in ratios if n > 2} or {n for n, _ in ratios})
    methods = sorted(dict.fromkeys(method for _, method in ratios), key=lambda m: m.startswith("decoupled"))
    figure, axes = pyplot.subplots(figsize=(9, 0.8 + 0.34 * len(methods)), layout="constrained")
    thickness = 0.8 / len(ranks)
    for number, n in enumerate(ranks):
        found = [(place, ratios[n, method]) for place, method in enumerate(methods) if (n, method) in ratios]
        places = [place + (number - (len(ranks) - 1) / 2) * thickness for place, _ in found]
        bars = axes.barh(places, [ratio for _, ratio in found], thickness * 0.9, label=f"{n} stages")
        axes.bar_label(bars, fmt="%.2f", fontsize="x-small", padding=2)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set(yticks=range(len(methods)), yticklabels=methods, ylim=(len(methods) - 0.5, -0.5))
    axes.set_xlabel("time per microbatch over the slowest stage's own")
    figure.legend(loc="outside upper right", ncols=len(ranks), fontsize="small")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
