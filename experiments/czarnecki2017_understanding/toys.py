"""Which small artificial sets do the linear networks learn?

Two classes, told apart by the first two coordinates; the others are noise, and all are mixed by a random rotation. One
label in ten is wrong, so that no set can be separated and the log loss has a minimum. Letters: M samples, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from pipeline import generator

__all__ = ["NUM_SAMPLES", "TOYS", "toy"]

NUM_SAMPLES = 512
"""M; more than twice the dimensions, or any labels could be separated."""
WRONG = 0.1
"""Share of wrong labels."""


def toy(name: str, *, num_dims: int, seed: int) -> tuple[Tensor, Tensor]:
    """A set of `TOYS`: x (M, D), standard deviation about 1 in each dimension, and labels (M,)."""
    draws = generator(seed, f"toy/{name}/{num_dims}", 0)
    randn = partial(torch.randn, generator=draws)
    informative, label = TOYS[name](randn)
    x = torch.cat([informative, randn(NUM_SAMPLES, num_dims - 2)], dim=1)
    rotation, _ = torch.linalg.qr(randn(num_dims, num_dims))
    wrong = torch.rand(NUM_SAMPLES, generator=draws) < WRONG
    return x @ rotation, torch.where(wrong, 1 - label, label)


def _slope(randn: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """A line between the classes."""
    x = randn(NUM_SAMPLES, 2)
    return x, (x @ torch.tensor([1.0, 0.5]) > 0).long()


def _blobs(randn: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Two clouds of different shape that overlap."""
    label = torch.arange(NUM_SAMPLES) % 2
    spread = torch.tensor([[1.0, 0.5], [0.5, 1.0]])[label]
    return randn(NUM_SAMPLES, 2) * spread + (2.0 * label[:, None] - 1.0) * torch.tensor([0.8, 0.3]), label


def _quarters(randn: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Opposite quarters of the plane belong together, one of them less: a line tells a little."""
    x = randn(NUM_SAMPLES, 2)
    return x, ((x[:, 0] > 0.5) ^ (x[:, 1] > 0.5)).long()


def _rings(randn: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Inside and outside of a circle that lies beside the middle."""
    x = randn(NUM_SAMPLES, 2)
    return x, ((x - torch.tensor([0.5, 0.0])).norm(dim=1) > 1.2).long()


TOYS: Mapping[str, Callable[[Callable[..., Tensor]], tuple[Tensor, Tensor]]] = {
    "slope": _slope,
    "blobs": _blobs,
    "quarters": _quarters,
    "rings": _rings,
}
