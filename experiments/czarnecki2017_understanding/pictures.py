"""What do the layers and the loss surfaces look like?

Drawn from results.jsonl alone: a file is drawn where the runs it shows are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.czarnecki2017_understanding.config import DEEP_LAYERS
from experiments.czarnecki2017_understanding.measures import SIDE
from experiments.czarnecki2017_understanding.results import Runs

__all__ = ["draw", "drawable"]

_DEEP = {
    "deep none": "backprop",
    "deep middle": "one in the middle",
    "deep every": "after every layer",
    "deep every slow": "every layer, slow",
}
"""Where synthetic gradients stand, by row."""
_SIGNAL = {
    "cosine": "cosine with the true gradient",
    "target_cosine": "cosine with its own target",
    "norm_ratio": "norm, as a share of the true one's",
}
"""What is drawn of a synthetic gradient along the depth, by grade."""
_SHOWN = (1, 5, 10, 15, 20)
"""Layers whose dissimilarities are drawn."""
_SURFACES = {
    "deep mse linear": "squared error, 10 layers, linear",
    "linear log linear": "log loss, linear",
    "linear log matched": "log loss, matched",
    "deep log linear": "log loss, 10 layers, linear",
    "deep log matched": "log loss, 10 layers, matched",
}


def drawable(runs: Runs) -> list[str]:
    """The pictures that the runs so far suffice for."""
    deep = all(0 in runs.get(row, {}) for row in _DEEP)
    surfaces = all(0 in runs.get(f"toy blobs 2 {name}", {}) for name in _SURFACES)
    return [*(("rsa.png", "probes.png", "signal.png") if deep else ()), *(("surfaces.png",) if surfaces else ())]


def draw(runs: Runs, folder: Path) -> None:
    """Draw what can be drawn."""
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    makers = {"rsa.png": _rsa, "probes.png": _probes, "signal.png": _signal, "surfaces.png": _surfaces}
    for name in drawable(runs):
        figure = makers[name](pyplot, runs)
        figure.savefig(folder / name, dpi=110, metadata={"Software": None})
        pyplot.close(figure)


def _rsa(pyplot: Any, runs: Runs) -> Any:
    figure, axes = pyplot.subplots(len(_DEEP), len(_SHOWN), figsize=(8.4, 6.6), layout="constrained")
    for cells, (row, title) in zip(axes, _DEEP.items(), strict=True):
        matrices = runs[row][0]["dissimilarity"]
        for cell, layer in zip(cells, _SHOWN, strict=True):
            image = cell.imshow(matrices[layer - 1], vmin=0.0, vmax=1.2, cmap="viridis")
            cell.set(xticks=[], yticks=[])
        cells[0].set_ylabel(title, fontsize="small")
    for cell, layer in zip(axes[0], _SHOWN, strict=True):
        cell.set_title(f"layer {layer}", fontsize="small")
    figure.colorbar(image, ax=axes, label="mean dissimilarity of two classes", shrink=0.7)
    return figure


def _probes(pyplot: Any, runs: Runs) -> Any:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    layers = range(1, DEEP_LAYERS + 1)
    for color, (row, title) in enumerate(_DEEP.items()):
        own = list(runs[row].values())
        left.plot(layers, [100 * x for x in _mean(own, "probe_accuracy")], color=f"C{color}", marker=".", label=title)
        right.plot(layers, _mean(own, "contrast"), color=f"C{color}", marker=".")
    left.set(xlabel="hidden layer", ylabel="linear probe, test accuracy, %")
    right.set(xlabel="hidden layer", ylabel="class contrast of dissimilarities")
    left.legend(fontsize="small")
    return figure


def _signal(pyplot: Any, runs: Runs) -> Any:
    figure, panels = pyplot.subplots(1, len(_SIGNAL), figsize=(10.5, 3.4), layout="constrained")
    for color, (row, title) in enumerate(_DEEP.items()):
        own = [run["probes"] for run in runs[row].values()]
        if len(own[0]) == DEEP_LAYERS:
            for panel, name in zip(panels, _SIGNAL, strict=True):
                means = [sum(at[name] for at in boundary) / len(own) for boundary in zip(*own, strict=True)]
                panel.plot(range(1, DEEP_LAYERS + 1), means, color=f"C{color}", marker=".", label=title)
    for panel, title in zip(panels, _SIGNAL.values(), strict=True):
        panel.set(xlabel="after hidden layer", title=title)
        panel.title.set_fontsize("small")
    panels[0].legend(fontsize="small")
    return figure


def _surfaces(pyplot: Any, runs: Runs) -> Any:
    figure, axes = pyplot.subplots(2, len(_SURFACES), figsize=(11, 4.6), layout="constrained")
    side = SIDE.tolist()
    for column, (name, title) in enumerate(_SURFACES.items()):
        surface = runs[f"toy blobs 2 {name}"][0]["surface"]
        levels = _levels(surface["true"])
        for cell, kind in zip(axes[:, column], ("true", "implied"), strict=True):
            cell.contourf(side, side, surface[kind], levels=levels, cmap="viridis", extend="both")
            cell.plot(0, 0, "w+")
        axes[0, column].set_title(f"{title}\nR² {surface['explained']:.2f}", fontsize="small")
    for cell, kind in zip(axes[:, 0], ("true", "implied"), strict=True):
        cell.set_ylabel(f"{kind}\nalong the classes, deviations", fontsize="small")
    return figure


def _levels(surface: Sequence[Sequence[float]]) -> list[float]:
    values = [value for row in surface for value in row]
    low, high = min(values), max(values)
    return [low + (high - low) * step / 12 for step in range(13)]


def _mean(runs: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Over the seeds, layer by layer."""
    return [sum(values) / len(runs) for values in zip(*(run[name] for run in runs), strict=True)]
