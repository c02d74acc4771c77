"""How is new capacity phased in?

What a new component adds is scaled by one alpha, which a ramp raises from 0 to 1. As a gate, y = W h + alpha V s(U h),
alpha acts at every step until it is folded into V and removed; as an initial scale, V = alpha V0, once (as
`change_units` does).

At alpha = 0 a gate passes no gradient to V or U; an initial scale of 0 passes the whole gradient to V and none to U.
Adam undoes the size of gradients on either path, so there alpha only sets how far the *function* moves per step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["CosineRamp", "GatedComponent", "LinearRamp", "LossRamp", "Parallel", "Progress", "Ramp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a phase-in has come: a value, kept in the checkpoint."""

    num_steps: int = 0
    """Steps since the component was attached."""
    alpha: float = 0.0
    """In [0, 1]; at 1 the component may be folded in."""
    smoothed: float = 0.0
    """Mean loss of late, for ramps that look at it."""
    best: float = 0.0
    """The lowest it has been since."""


class Ramp(Protocol):
    """Raises alpha."""

    def advance(self, progress: Progress, loss: float) -> Progress:
        """The progress after one more step, whose training loss (per sample) was `loss`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearRamp:
    """alpha = t / num_steps.    Source: Karras et al. 2017 (arXiv 1710.10196), who take 600,000 images."""

    num_steps: int
    """Steps from 0 to 1."""

    def __post_init__(self) -> None:
        _check_steps(self.num_steps)

    def advance(self, progress: Progress, loss: float) -> Progress:
        """The progress after one more step; the loss is not looked at."""
        done = progress.num_steps + 1
        return replace(progress, num_steps=done, alpha=min(1.0, done / self.num_steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineRamp:
    """alpha = (1 - cos(pi t / num_steps)) / 2: gentle at both ends."""

    num_steps: int
    """Steps from 0 to 1."""

    def __post_init__(self) -> None:
        _check_steps(self.num_steps)

    def advance(self, progress: Progress, loss: float) -> Progress:
        """The progress after one more step; the loss is not looked at."""
        done = min(self.num_steps, progress.num_steps + 1)
        alpha = 1.0 if done == self.num_steps else (1 - math.cos(math.pi * done / self.num_steps)) / 2
        return replace(progress, num_steps=progress.num_steps + 1, alpha=alpha)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRamp:
    """alpha rises by 1 / num_steps while the smoothed loss is at most (1 + slack) times its best, and waits otherwise.

    So a component that hurts is held back until the network has adapted to it.
    """

    num_steps: int
    """Steps from 0 to 1 if it never waits."""
    slack: float = 0.05
    """How far, relative, the loss may be above its best. The loss must not be negative."""
    memory: float = 0.9
    """Part of the smoothed loss that stays at each step; 0 looks at the last loss alone."""

    def __post_init__(self) -> None:
        _check_steps(self.num_steps)
        if not (self.slack >= 0 and 0 <= self.memory < 1):
            raise ValueError(
                f"slack must be 0 or more and memory in [0, 1), got slack={self.slack}, memory={self.memory}."
            )

    def advance(self, progress: Progress, loss: float) -> Progress:
        """The progress after one more step of this loss.

        Raises:
            ValueError: the loss is negative or not finite.
        """
        if not (math.isfinite(loss) and loss >= 0):
            raise ValueError(f"a ramp that follows the loss needs one of 0 or more, got {loss}. Use LinearRamp.")
        if progress.num_steps == 0:
            smoothed = best = loss
        else:
            smoothed = self.memory * progress.smoothed + (1 - self.memory) * loss
            best = min(progress.best, smoothed)
        rises = smoothed <= (1 + self.slack) * best
        # Rounding of a sum of 1 / num_steps must not keep it from arriving.
        alpha = round(progress.alpha * self.num_steps + rises) / self.num_steps
        return Progress(num_steps=progress.num_steps + 1, alpha=min(1.0, alpha), smoothed=smoothed, best=best)


class Parallel(nn.Module):
    """Adds what a component computes from the same input: y = base(h) + component(h)."""

    def __init__(self, base: nn.Module, component: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.component = component

    def forward(self, h: Tensor) -> Tensor:
        """Of the shape of `base(h)`."""
        result: Tensor = self.base(h) + self.component(h)
        return result


class GatedComponent(nn.Module):
    """Adds what a component computes from the same input, scaled: y = base(h) + alpha component(h).

    `alpha` is a buffer: a ramp sets it, nothing learns it, checkpoints keep it. Parameters are named as in
    `Parallel`.

    Args:
        base: what was there.
        component: ends with the Linear or convolution V, so that alpha can be folded into it.

    Raises:
        TypeError: the component ends with another layer.
    """

    alpha: Tensor

    def __init__(self, base: nn.Module, component: nn.Sequential) -> None:
        super().__init__()
        self.base = base
        self.component = component
        last = self._outgoing()
        self.register_buffer("alpha", torch.zeros((), dtype=last.weight.dtype, device=last.weight.device))

    def forward(self, h: Tensor) -> Tensor:
        """Of the shape of `base(h)`; equal to it at alpha = 0."""
        result: Tensor = self.base(h) + self.alpha * self.component(h)
        return result

    def set_alpha_(self, alpha: float) -> None:
        """Open the gate this far, in [0, 1]."""
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {alpha}.")
        self.alpha.fill_(alpha)

    def fold_(self) -> Parallel:
        """Multiply V, and its bias, by alpha, and do without the gate: the same function.

        Returns:
            A module with the same parameters, so the optimiser need not be told. At alpha = 1 they keep their bits.
        """
        last = self._outgoing()
        with torch.no_grad():
            for own in (last.weight, last.bias):
                if own is not None:
                    own.mul_(self.alpha)
        self.alpha.fill_(1)
        return Parallel(self.base, self.component)

    def _outgoing(self) -> nn.Linear | nn.Conv1d | nn.Conv2d:
        last = self.component[-1] if isinstance(self.component, nn.Sequential) and len(self.component) else None
        if not isinstance(last, nn.Linear | nn.Conv1d | nn.Conv2d):
            raise TypeError(
                "a gated component must be an nn.Sequential that ends with the Linear or convolution into which alpha "
                f"is folded, got {type(last if last is not None else self.component).__name__}."
            )
        return last


def _check_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"a ramp takes one step or more, got {num_steps}. To add a component at once, use Parallel.")
