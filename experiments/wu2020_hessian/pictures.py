"""What do overlaps, spectra and the rank of directions look like, layer by layer?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dni import SpectralDensity, random_overlap
from experiments.wu2020_hessian.config import ARMS, NETWORKS, NUM_CLASSES
from experiments.wu2020_hessian.results import Model, Pair
from experiments.wu2020_hessian.summary import of_arm, pair_of

__all__ = ["PICTURES", "draw"]

PICTURES = ("overlap.png", "energies.png", "density.png")
_STYLES: Mapping[str, str] = {"init": "k:", "early": "C0:", "bp": "C0-", "sync": "C1--", "never": "C3-"}


def draw(models: Collection[Model], pairs: Collection[Pair], folder: Path) -> None:
    """Write the three pictures: a row for each network, a column for each layer."""
    _draw(folder / PICTURES[0], models, "overlap of two models", lambda *cell: _overlap(pairs, *cell))
    _draw(folder / PICTURES[1], models, "rank-one share", lambda *cell: _energies(models, *cell))
    _draw(folder / PICTURES[2], models, "spectral density", lambda *cell: _density(models, *cell))


def _draw(path: Path, models: Collection[Model], label: str, fill: Callable[[Any, str, int], None]) -> None:
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    found = {network: own[0].looks for network in NETWORKS if (own := of_arm(models, network, "init"))}
    columns = max(map(len, found.values()))
    size = (3.25 * columns, 3 * len(found))
    figure, rows = pyplot.subplots(len(found), columns, figsize=size, layout="constrained", squeeze=False)
    for (network, looks), row in zip(found.items(), rows, strict=True):
        for layer, (look, axes) in enumerate(zip(looks, row, strict=True)):
            axes.set_title(f"{network} {layer}: {look.rows} x {look.columns}")
            fill(axes, network, layer)
        row[0].set_ylabel(label)
    figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


def _overlap(pairs: Collection[Pair], axes: Any, network: str, layer: int) -> None:
    """Of models of one arm with different seeds, and of backprop with synthetic gradients."""
    for arm, style in _STYLES.items():
        if (pair := pair_of(pairs, network, arm, arm, layer, same_seed=False)) is not None:
            ks = range(1, len(pair.curve) + 1)
            axes.plot(ks, pair.curve, style, label=ARMS[arm].title)
            if arm == "bp":
                axes.plot(ks, [random_overlap(k, pair.rows * pair.columns) for k in ks], "0.6", label="by chance")
                _marks(axes, pair.rows)
    if (pair := pair_of(pairs, network, "bp", "never", layer, same_seed=False)) is not None:
        axes.plot(range(1, len(pair.curve) + 1), pair.curve, "C2-", label="backprop and never true")
    axes.set_xlabel("k; lines at c and m")
    axes.set_ylim(0, 1)


def _energies(models: Collection[Model], axes: Any, network: str, layer: int) -> None:
    for arm, style in _STYLES.items():
        if own := of_arm(models, network, arm):
            found = _mean([model.looks[layer].energies for model in own])
            axes.plot(range(1, len(found) + 1), found, style, label=ARMS[arm].title)
            rows = own[0].looks[layer].rows
    _marks(axes, rows)
    axes.set_xlabel("direction; lines at c and m")
    axes.set_ylim(0, 1)


def _density(models: Collection[Model], axes: Any, network: str, layer: int) -> None:
    """Of the first seed, over the eigenvalues as shares of the largest."""
    for arm in ("init", "bp", "never"):
        looks = [model.looks[layer] for model in of_arm(models, network, arm) if model.looks[layer].density_points]
        if looks:
            largest = looks[0].values[0]
            points, weights = (torch.tensor(own) for own in (looks[0].density_points, looks[0].density_weights))
            density = SpectralDensity(points=points.double() / largest, weights=weights.double())
            grid = torch.linspace(-0.05, 1.1, 400, dtype=torch.float64)
            axes.semilogy(grid, density.at(grid, width=0.01), _STYLES[arm], label=ARMS[arm].title)
    axes.set_ylim(1e-5, 100)
    axes.set_xlabel("eigenvalue / the largest")


def _marks(axes: Any, rows: int) -> None:
    for place in sorted({NUM_CLASSES, rows}):
        axes.axvline(place, color="0.8", linewidth=0.8, zorder=0)


def _mean(lists: Sequence[Sequence[float]]) -> list[float]:
    return [sum(values) / len(values) for values in zip(*lists, strict=True)]
