"""What do masks that are held add to a training step? The same network with and without them takes turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from experiments.structure_cost.runs import OPTIMIZERS
from pipeline.learners.updater import OptimizerFactory, Updater

__all__ = ["MASKED", "MASK_OPTIMIZERS", "Contender", "masked"]

MASK_OPTIMIZERS: Mapping[str, OptimizerFactory] = {
    **OPTIMIZERS,
    "Adam, fused": partial(torch.optim.Adam, lr=1e-4, fused=True),
}
_SPARSITY = 0.9
_WARM_UP = 2
"""Turns that are not counted."""


def _mlp() -> nn.Sequential:
    layers = [layer for _ in range(3) for layer in (nn.Linear(1024, 1024), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(1024, 10))


def _cnn() -> nn.Sequential:
    layers = [layer for a, b in ((4, 32), (32, 32), (32, 32)) for layer in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2048, 512), nn.ReLU(), nn.Linear(512, 10))


MASKED: Mapping[str, Callable[[], nn.Sequential]] = {"MLP, 3 x 1024": _mlp, "CNN, 3 x 32 and 2048 to 512": _cnn}
"""On inputs of 4x16x16. That with convolutions has most of its weights in a linear layer, where little else is done for
each of them."""


class Contender:
    """A network with its updater."""

    def __init__(self, name: str, optimizer: str, *, sparsity: float, batch_size: int) -> None:
        torch.manual_seed(0)
        self.module = MASKED[name]()
        drawn = torch.Generator().manual_seed(1)
        self.x = torch.randn(batch_size, 4, 16, 16, generator=drawn)
        self.target = torch.randint(10, (batch_size,), generator=drawn)
        parameters = dict(self.module.named_parameters())
        masks = {
            each: torch.rand(value.shape, generator=drawn) >= sparsity
            for each, value in parameters.items()
            if sparsity and value.dim() > 1
        }
        self._updater = Updater(
            parameters, optimizer=MASK_OPTIMIZERS[optimizer], schedule=lambda step: 1.0, masks=masks
        )

    def step(self, number: int) -> None:
        """Forward, backward of the summed loss, update."""
        nn.functional.cross_entropy(self.module(self.x), self.target, reduction="sum").backward()
        if self._updater.due(number):
            self._updater.accumulate(len(self.x))
            self._updater.apply_due(number)


def masked(name: str, optimizer: str, *, batch_size: int, turns: int) -> dict[str, Any]:
    """Milliseconds of a step without and with masks over all weights, and the median ratio of neighbours."""
    contenders = [Contender(name, optimizer, sparsity=share, batch_size=batch_size) for share in (0.0, _SPARSITY)]
    took: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + _WARM_UP):
        for which in (0, 1) if turn % 2 else (1, 0):
            start_s = time.perf_counter()
            contenders[which].step(turn)
            took[which].append(1e3 * (time.perf_counter() - start_s))
    dense, sparse = (times[_WARM_UP:] for times in took)
    ratio = median(b / a for a, b in zip(dense, sparse, strict=True))
    return {"dense_ms": round(median(dense), 3), "masked_ms": round(median(sparse), 3), "ratio": round(ratio, 4)}
