"""What is the loss of a network on a fixed set of batches, and its gradient, at any point?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dni.landscape.direction import Point
from dni.landscape.still_copy import Mode, StillCopy, drawing_from
from dni.members import Members, num_samples
from dni.sources.loss import sum_over_samples

__all__ = ["Batches", "NetworkLoss", "count_samples", "leaves"]

Batches: TypeAlias = Sequence[tuple[Members, Tensor | None]]
"""Inputs (N, *F) and targets (N, ...)."""


class NetworkLoss:
    """The true loss per sample, as a function of the network's tensors by name. A `Loss` for slices.

    The mean over all samples of all batches, each batch run by itself. Nothing of the module changes: not its tensors,
    gradients, statistics, hooks or mode, nor what is drawn after. Later changes of the module do not change the loss.

    Args:
        module: the network, or `nn.Sequential(*stages)`.
        batches: kept as they are; at least one.
        loss: as of `LossGradient`: a mean or a sum over samples.
        mode: which of its two ways of running is looked at.
        seed: of dropout's draws in training mode; those of a batch are the same at every point.

    Raises:
        ValueError: there are no samples, or as `LossGradient`.
        TypeError: the module cannot be copied.
    """

    def __init__(self, module: nn.Module, batches: Batches, loss: Any, *, mode: Mode = "eval", seed: int = 0) -> None:
        self._num_samples = count_samples(batches)
        self._copy, self._batches, self._seed = StillCopy(module, mode), tuple(batches), seed
        x, target = self._batches[0]
        with torch.no_grad(), drawing_from(seed, [self._copy]):
            self._summed = sum_over_samples(loss, self._copy.run({}, x), target)

    @property
    def start(self) -> dict[str, Tensor]:
        """The network's parameters by name, as they were when this was made."""
        return dict(self._copy.parameters)

    def __call__(self, point: Point) -> float:
        """The loss per sample.

        Args:
            point: parameters, and buffers (BatchNorm's statistics), by name; the others are as they were.

        Raises:
            ValueError: the network has no such tensor.
        """
        self._copy.check(point)
        with torch.no_grad():
            totals = [self._total(point, batch).double() for batch in range(len(self._batches))]
        return float(torch.stack(totals).sum()) / self._num_samples

    def gradient(self, point: Point) -> dict[str, Tensor]:
        """The true gradient per sample of the parameters in the point; zero where the loss does not depend on one."""
        self._copy.check(point)
        names = [name for name in point if name in self._copy.parameters]
        found = {name: torch.zeros_like(point[name]) for name in names}
        with torch.enable_grad():
            for batch in range(len(self._batches)):
                own = leaves({name: point[name] for name in names})
                total = self._total({**point, **own}, batch)
                gradients = torch.autograd.grad(total, list(own.values()), materialize_grads=True)
                for name, gradient in zip(names, gradients, strict=True):
                    found[name] += gradient / self._num_samples
        return found

    def _total(self, point: Point, batch: int) -> Tensor:
        x, target = self._batches[batch]
        with drawing_from(self._seed + batch, [self._copy]):
            return self._summed(self._copy.run(point, x), target)


def leaves(point: Point) -> dict[str, Tensor]:
    """The same values, to be differentiated by."""
    return {name: value.detach().clone().requires_grad_() for name, value in point.items()}


def count_samples(batches: Batches) -> int:
    """Of all batches.

    Raises:
        ValueError: there are none.
    """
    found = sum(num_samples(x) for x, _ in batches)
    if not found:
        raise ValueError(f"a landscape is of fixed samples, at least one, got {len(batches)} batches of none.")
    return found
