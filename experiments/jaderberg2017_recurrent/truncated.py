"""How is the baseline trained? By truncated backpropagation through time, written out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni import LossOfSteps, Members

__all__ = ["TruncatedBPTT"]


class TruncatedBPTT:
    """No gradient crosses from a window of `horizon` steps into the one before it."""

    def __init__(self, core: nn.Module, *, horizon: int) -> None:
        self.core, self.horizon = core, horizon
        self.state: Members | None = None

    def begin(self) -> None:
        """The next span starts at the beginning of its sequences."""
        self.state = None

    def learn(self, x: Tensor, loss_of: LossOfSteps, *, done: Tensor | None = None) -> float:
        """Add the gradients of a span to `.grad`; returns its loss per sample. `done` must be all or nothing."""
        total = 0.0
        for first in range(0, len(x), self.horizon):
            steps = slice(first, min(first + self.horizon, len(x)))
            y, (h, c) = self.core(x[steps], self.state)
            loss = loss_of(y, steps)
            if loss.requires_grad:
                loss.backward()
            self.state = (h.detach(), c.detach())
            total += loss.item()
        if done is not None and bool(torch.all(done)):
            self.begin()
        return total / x.shape[1]
