"""Which networks are trained, and which of their parameters are put back?

Networks of four linear layers, 784-w-w-w-10, learn Fashion-MNIST with plain SGD. Nothing here was chosen by looking at
a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from dni import absolute_distance, distance_in_deviations, relative_distance

__all__ = ["FULL", "NUM_LAYERS", "SEEDS", "SETS", "SETTINGS", "UNITS", "WIDTHS", "Settings", "network"]

WIDTHS = (32, 64, 128, 256, 512)
FULL = (2048,)
"""Asked for with --full only."""
SEEDS = (0, 1, 2)
NUM_LAYERS = 4

UNITS: Mapping[str, Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]] = {
    "absolute": absolute_distance,
    "relative": relative_distance,
    "deviations": distance_in_deviations,
}
"""In which the distance from the initial values is measured."""
SETS = ("active", "lazy", "random", "random_in_layers")
"""What is put back: the farthest, the nearest, any, any but as many in each tensor as of the farthest."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all runs have in common."""

    batch_size: int = 128
    rate: float = 0.1
    """Of SGD without momentum; constant, the same for all widths."""
    steps: int = 5000
    """10.7 passes over the 60,000 training samples."""
    retraining_steps: int = 500
    """After a set was put back, on batches in another order."""
    shares: tuple[float, ...] = (0.001, 0.01, 0.05, 0.1)
    """Of all parameters: how many count as active."""
    reset_shares: tuple[float, ...] = (0.01, 0.05, 0.1)
    """Of `shares`, those that are also put back."""
    retrained_share: float = 0.1
    """Of `reset_shares`, the one that is also retrained, by absolute distance."""


SETTINGS = Settings()


def network(width: int, *, seed: int) -> nn.Sequential:
    """784-w-w-w-10 with ReLU between; PyTorch's own initial weights."""
    widths = (784, *(width,) * (NUM_LAYERS - 1), 10)
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
