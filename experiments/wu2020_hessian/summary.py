"""What do the measures of a layer, of a model and of pairs of models come to, in a number each?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import mean

from dni import random_overlap
from experiments.wu2020_hessian.config import NETWORKS, NUM_CLASSES
from experiments.wu2020_hessian.layer import Look
from experiments.wu2020_hessian.results import Model, Pair

__all__ = [
    "MEASURES",
    "by_seed",
    "measured",
    "num_along_mean",
    "num_outliers",
    "of_arm",
    "pair_of",
    "peak",
]

MEASURES: Mapping[str, Callable[[Look], float]] = {
    "outliers": lambda look: num_outliers(look),
    "rank_one": lambda look: mean(look.energies[:NUM_CLASSES]),
    "alignment": lambda look: mean(look.alignments[:NUM_CLASSES]),
    "kronecker_cosine": lambda look: look.kronecker_cosine,
    "kronecker_overlap": lambda look: look.kronecker_overlap[NUM_CLASSES - 1],
    "gauss_newton_cosine": lambda look: look.gauss_newton_cosine,
}
"""Of one layer, none of which changes if the Hessian is multiplied by a number."""


def num_outliers(look: Look) -> int:
    """Eigenvalues before the largest gap, as a ratio, among the first 2 c."""
    values = look.values[: 2 * NUM_CLASSES]
    ratios = [first / second for first, second in pairwise(values)]
    return 1 + max(range(len(ratios)), key=ratios.__getitem__)


def of_arm(models: Iterable[Model], network: str, arm: str) -> list[Model]:
    """In the order of the seeds."""
    return [model for model in models if (model.network, model.arm) == (network, arm)]


def by_seed(models: Iterable[Model], layer: int, measure: Callable[[Look], float]) -> list[float]:
    """A measure of one layer in each model."""
    return [measure(model.looks[layer]) for model in models]


def pair_of(
    pairs: Iterable[Pair], network: str, first: str, second: str, layer: int, *, same_seed: bool
) -> Pair | None:
    """Of two arms in any order; None: not compared yet."""
    for pair in pairs:
        arms = {pair.first, pair.second} == {first, second}
        if arms and (pair.network, pair.layer, pair.same_seed) == (network, layer, same_seed):
            return pair
    return None


def peak(pair: Pair) -> int:
    """The k at which the overlap stands highest over what it is by chance."""
    size = pair.rows * pair.columns
    return max(range(1, len(pair.curve) + 1), key=lambda k: pair.curve[k - 1] - random_overlap(k, size))


def num_along_mean(look: Look) -> int:
    """How many of the top directions of E[M] ⊗ E[x xᵀ] in a row have the first input direction: where overlap should
    peak. All m, if E[M] is flatter than E[x xᵀ] is steep."""
    least = look.output_values[0] * look.input_values[1] / look.input_values[0]
    return sum(value > least for value in look.output_values)


def measured(models: Collection[Model], pairs: Collection[Pair]) -> dict[str, list[float]]:
    """What expected.csv is about, by row: a value per seed, or per pair of models, each a mean over the layers.

    The last of each network's rows compare training with synthetic gradients, layer by layer: how much of the overlap
    between two models trained by backprop is left between one of them and one of those, and of the trace.
    """
    found: dict[str, list[float]] = {}
    for network in NETWORKS:
        own = of_arm(models, network, "bp")
        for name, measure in MEASURES.items():
            found[f"{network}_{name}"] = [mean(map(measure, model.looks)) for model in own]
        layers = range(len(own[0].looks)) if own else range(0)
        within = [pair_of(pairs, network, "bp", "bp", layer, same_seed=False) for layer in layers]
        known = [pair for pair in within if pair is not None]
        found[f"{network}_overlap"] = _over_layers(known)
        found[f"{network}_peak"] = [peak(pair) / pair.rows for pair in known]
        for arm in ("sync", "never"):
            across = [pair_of(pairs, network, "bp", arm, layer, same_seed=False) for layer in layers]
            ratios = [
                mean(one.at_rows) / mean(other.at_rows)
                for one, other in zip(across, within, strict=True)
                if one is not None and other is not None
            ]
            found[f"{network}_{arm}_overlap_left"] = ratios
            others = of_arm(models, network, arm)
            found[f"{network}_{arm}_trace_left"] = [
                mean(by_seed(others, layer, _trace)) / mean(by_seed(own, layer, _trace)) for layer in layers if others
            ]
    return found


def _trace(look: Look) -> float:
    return look.trace


def _over_layers(pairs: Sequence[Pair]) -> list[float]:
    """The overlap at k = m of each pair of models, the mean over layers."""
    return [mean(values) for values in zip(*(pair.at_rows for pair in pairs), strict=True)]
