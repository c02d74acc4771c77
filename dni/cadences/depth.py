"""How does a cadence grow with depth?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dni.cadences.blocks import BlockCadence, Selector
from dni.cadences.cadence import Periodic
from dni.cadences.selectors import Layer

__all__ = ["by_depth"]


def by_depth(
    layers: Sequence[str | Selector],
    *,
    longest: int,
    shortest: int = 1,
    fastest: Literal["output", "input"] = "output",
    growth: Literal["geometric", "linear"] = "geometric",
) -> tuple[BlockCadence, ...]:
    """A period for each layer, from `shortest` at the fast end to `longest` at the other.

    For layers 0 (fast) to L - 1: shortest (longest / shortest)^(i / (L - 1)), or shortest + (longest - shortest)
    i / (L - 1), rounded. The output fastest and the others more fixed the deeper they lie is the order of Nested
    Learning's chain of memories (Behrouz et al. 2025, arXiv 2512.24695); the input fastest is its opposite.

    Args:
        layers: from the input up: names of layers, or selectors.
        longest: steps between updates at the slow end.
        shortest: at the fast end.
        fastest: which end that is.
        growth: of the period, from layer to layer.

    Raises:
        ValueError: there are no layers, or shortest <= longest does not hold.
    """
    if not layers or not 1 <= shortest <= longest:
        raise ValueError(
            f"there must be layers, and 1 <= shortest <= longest, got {len(layers)} layers, {shortest} and {longest}."
        )
    shares = [index / max(1, len(layers) - 1) for index in range(len(layers))]
    if growth == "geometric":
        periods = [round(shortest * (longest / shortest) ** share) for share in shares]
    else:
        periods = [round(shortest + (longest - shortest) * share) for share in shares]
    upward = periods if fastest == "input" else periods[::-1]
    selectors = [Layer(layer) if isinstance(layer, str) else layer for layer in layers]
    return tuple(BlockCadence(each, Periodic(period)) for each, period in zip(selectors, upward, strict=True))
