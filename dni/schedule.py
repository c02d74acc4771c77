"""By what is a learning rate multiplied at a step?

Schedules are functions of the step, not of a stage's version, so that cadences do not stretch them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Constant", "Cosine", "Schedule", "Steps"]

Schedule: TypeAlias = Callable[[int], float]
"""A factor for the learning rate, as a function of the step."""


@dataclass(frozen=True)
class Constant:
    """The learning rate as it was given."""

    def __call__(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Steps:
    """Multiply by `factor` at each of the given steps."""

    at: tuple[int, ...]
    """Steps at which the rate changes."""
    factor: float = 0.1
    """What it is multiplied by each time."""

    def __call__(self, step: int) -> float:
        return float(self.factor ** sum(step >= start for start in self.at))


@dataclass(frozen=True)
class Cosine:
    """Rise linearly for `warmup` steps, then fall along half a cosine to `floor` at step `total`."""

    total: int
    """Step at which the floor is reached."""
    warmup: int = 0
    """Steps of linear rise at the start."""
    floor: float = 0.0
    """The factor at the end."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.total:
            raise ValueError(f"warmup must lie in [0, total), got warmup {self.warmup}, total {self.total}.")

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / (self.total - self.warmup))
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
