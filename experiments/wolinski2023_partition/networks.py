"""Which networks are trained, and how do they begin?

All are chains, without normalisation, as in the scripts of the paper: weights are N(0, gain^2 / fan_in), biases 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from pipeline import generator

__all__ = ["begun", "lenet", "mlp", "vgg11"]

_VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Channels of the convolutions, up to each pooling."""


def lenet() -> nn.Sequential:
    """6-16-120-84-10 for (N, 3, 32, 32), tanh, average pooling: 10 tensors."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.Tanh(),
        nn.Linear(120, 84),
        nn.Tanh(),
        nn.Linear(84, 10),
    )


def mlp(widths: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Linear layers from the first width to the last, with an activation between each two."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


def vgg11(*, divisor: int) -> nn.Sequential:
    """Eight convolutions and one linear layer for (N, 3, 32, 32), ELU: 18 tensors.

    Args:
        divisor: every width is divided by it; 1 is the paper's network.
    """
    layers: list[nn.Module] = []
    before = 3
    for group in _VGG11:
        for width in group:
            layers += [nn.Conv2d(before, width // divisor, 3, padding=1), nn.ELU()]
            before = width // divisor
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before, 10))


@torch.no_grad()
def begun(module: nn.Sequential, *, gain: float, seed: int) -> nn.Sequential:
    """The module at its initial parameters."""
    for name, own in module.named_parameters():
        if own.dim() == 1:
            own.zero_()
        else:
            own.normal_(0, gain / own[0].numel() ** 0.5, generator=generator(seed, f"weights of {name}", 0))
    return module
