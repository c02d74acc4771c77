"""How do real gradients alone teach a recurrent network? By truncated backpropagation through time, written out."""

from __future__ import annotations

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

    def learn(self, x: Tensor, loss_of: LossOfSteps) -> float:
        """Add the gradients of a span to `.grad`; returns its loss per sample."""
        losses = []
        for first in range(0, len(x), self.horizon):
            steps = slice(first, min(first + self.horizon, len(x)))
            y, (h, c) = self.core(x[steps], self.state)
            losses.append(loss_of(y, steps))
            self.state = (h.detach(), c.detach())
        # From the last to the first, as `RecurrentDNI` does: sums in the same order have the same bits.
        for loss in reversed(losses):
            loss.backward()
        return sum(loss.item() for loss in losses) / x.shape[1]
