"""When in training do weights decay, and how is it done?

With λ_t the strength at step t, g the averaged gradient and η the learning rate, an update begins with

    coupled         g ← g + λ_t w          the L2 penalty's gradient, which momentum and scaling see
    decoupled       w ← (1 - η λ_t) w      beside the optimiser, which does not see it

and then the optimiser makes of g what it does.    Source: Loshchilov & Hutter 2019 (arXiv 1711.05101), algorithm 2;
windows in time: Golatkar et al. 2019 (arXiv 1905.13277), Bjorck et al. 2021 (arXiv 2012.13841). With λ constant this
is, bit for bit, the weight_decay of torch's SGD and Adam (coupled) and of its AdamW (decoupled).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from dni.schedules.schedule import Constant, Schedule

__all__ = ["Coupling", "WeightDecay", "Within", "sliding_windows"]

Coupling: TypeAlias = Literal["coupled", "decoupled"]
"""Whether decay is part of the gradient that the optimiser sees."""


@dataclass(frozen=True)
class Within:
    """A schedule that is 1 from step `start` to before step `stop`, and 0 outside.

    `Within(stop=500)` is early only, `Within(start=500)` late only, `Within(0, 0)` never.
    """

    start: int = 0
    """First step inside."""
    stop: int | None = None
    """First step after it; None: it does not end."""

    def __post_init__(self) -> None:
        if self.start < 0 or (self.stop is not None and self.stop < self.start):
            raise ValueError(f"a window must begin at 0 or later and not end before, got {self.start} to {self.stop}.")

    def __call__(self, step: int) -> float:
        return float(self.start <= step and (self.stop is None or step < self.stop))


@dataclass(frozen=True, kw_only=True)
class WeightDecay:
    """Weight decay as a function of the step, for any optimiser that has none of its own."""

    strength: float
    """λ where the schedule is 1; each update applies it once, however many microbatches it holds."""
    coupling: Coupling = "decoupled"
    """coupled: added to the gradient. decoupled: multiplied into the weight."""
    schedule: Schedule = field(default_factory=Constant)
    """What `strength` is multiplied by at a step; a `Within` switches it on and off."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength < math.inf:
            raise ValueError(f"the strength of weight decay must be finite and not negative, got {self.strength}.")
        if self.coupling not in ("coupled", "decoupled"):
            raise ValueError(f"weight decay is coupled or decoupled, got {self.coupling!r}.")

    def apply_(self, parameters: Iterable[Tensor], *, step: int, rate: float | Tensor, ascends: bool = False) -> None:
        """Begin an update: change the gradients (coupled) or the weights (decoupled) in place.

        Args:
            parameters: w, each with the averaged gradient in `.grad`; one without a gradient is idle and left alone.
            step: of the schedule.
            rate: η of this update.
            ascends: whether the optimiser turns the gradient round (`maximize`); the weights decay all the same.
        """
        strength = self.strength * self.schedule(step)
        moving = [(p, p.grad) for p in parameters if p.grad is not None]
        if not moving or strength == 0.0:
            return
        weights = [weight for weight, _ in moving]
        with torch.no_grad():
            if self.coupling == "coupled":
                gradients = [gradient for _, gradient in moving]
                torch._foreach_add_(gradients, weights, alpha=-strength if ascends else strength)
            else:
                torch._foreach_mul_(weights, 1 - rate * strength)


def sliding_windows(length: int, *, total: int, stride: int | None = None) -> tuple[Within, ...]:
    """Windows of one length that begin `stride` (by default `length`) steps after one another and end by `total`.

    Raises:
        ValueError: not one of them fits.
    """
    stride = length if stride is None else stride
    if not (1 <= length <= total and stride >= 1):
        raise ValueError(f"length and stride must be at least 1 and length at most {total}, got {length} and {stride}.")
    return tuple(Within(start, start + length) for start in range(0, total - length + 1, stride))
