"""Do the Hessians of a layer in different models bend in the same directions?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from dni import overlap_curve
from experiments.machine import machine
from experiments.wu2020_hessian.config import NUM_CLASSES
from experiments.wu2020_hessian.results import Pair

__all__ = ["Frames", "pairs_of"]

Frames = Mapping[int, Sequence[Tensor]]
"""By seed the top directions of each layer, (P, 2 m)."""


def pairs_of(network: str, frames: Mapping[str, Frames], rows: Sequence[int]) -> list[Pair]:
    """Every two arms, each with itself too, layer by layer.

    Args:
        network: its name.
        frames: by arm.
        rows: m of each layer.
    """
    return [
        _pair(network, first, second, layer, rows[layer], frames, same_seed)
        for first, second in combinations_with_replacement(frames, 2)
        for layer in range(len(rows))
        for same_seed in ((False,) if first == second else (False, True))
    ]


def _pair(
    network: str, first: str, second: str, layer: int, rows: int, frames: Mapping[str, Frames], same_seed: bool
) -> Pair:
    ones, others = frames[first], frames[second]
    curves = torch.stack(
        [
            overlap_curve(ones[one][layer], others[other][layer])
            for one in ones
            for other in others
            # Of an arm with itself each two seeds come once.
            if (one == other) == same_seed and (first != second or one < other)
        ]
    )
    return Pair(
        network=network,
        first=first,
        second=second,
        layer=layer,
        rows=rows,
        columns=len(ones[min(ones)][layer]) // rows,
        same_seed=same_seed,
        curve=_short(curves.mean(0)),
        at_classes=_short(curves[:, NUM_CLASSES - 1]),
        at_rows=_short(curves[:, rows - 1]),
        machine=machine(),
    )


def _short(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
