"""Sources that hand a stage the true gradient: from above, or from the loss itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dni.members import Members, carriers, like
from dni.sources.loss import PerSampleLoss, SummedLoss, split_over_samples, sum_over_samples
from dni.sources.source import Need, Signal
from dni.structure.origin import Origin

__all__ = ["LossGradient", "TrueGradient"]


class TrueGradient(nn.Module):
    """Use the gradient that the stage above sends down: backprop."""

    needs = Need.GRADIENT
    learns_from = Need.NONE

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        """Nothing to build."""

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        """Nothing to remap."""

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        return signal.gradient

    def learn(self, h: Members, signal: Signal) -> float:
        return 0.0


class LossGradient(nn.Module):
    """dL/dy of the loss, summed over the microbatch: what makes the last stage an ordinary stage.

    Args:
        loss: a loss module or function of (output, target). One that averages over the batch is turned into a
            sum over samples (`dni.sources.loss`), so that gradients across boundaries do not depend on N.

    Raises:
        ValueError: at the first batch, if the loss is neither a sum nor a mean over samples.
    """

    needs = Need.TARGET
    learns_from = Need.NONE

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss = loss
        self.latest: float | None = None
        """The loss per sample at the last estimate."""
        self._summed: SummedLoss | None = None
        self._per_sample: PerSampleLoss | None = None

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        """Nothing to build: the reduction is read from the first real batch."""

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        """Nothing to remap."""

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        leaves = [member.detach().requires_grad_() for member in carriers(h)]
        total = self.summed(_with_leaves(h, leaves), signal.target)
        gradients = torch.autograd.grad(total, leaves, materialize_grads=True)  # zero where L ignores it
        self.latest = total.item() / leaves[0].shape[0]
        return like(h, gradients)

    def implied_loss(self, h: Members, signal: Signal) -> Tensor:
        return self.summed(h, signal.target)

    def learn(self, h: Members, signal: Signal) -> float:
        return 0.0

    def summed(self, h: Members, target: Tensor | None) -> Tensor:
        """The loss summed over the samples of the microbatch, a scalar."""
        if self._summed is None:
            self._summed = sum_over_samples(self.loss, h, target)
        return self._summed(h, target)

    def per_sample(self, h: Members, target: Tensor | None) -> Tensor:
        """The loss of each sample, (N,), without a graph."""
        with torch.no_grad():
            if self._per_sample is None:
                self._per_sample = split_over_samples(self.loss, h, target)
            return self._per_sample(h, target)


def _with_leaves(h: Members, leaves: list[Tensor]) -> Members:
    if not isinstance(h, tuple):
        return leaves[0]
    remaining = iter(leaves)
    return tuple(next(remaining) if member is not None and member.is_floating_point() else member for member in h)
