"""By what is a learning rate, or the weight of something in the gradient, multiplied at a step?

Schedules are functions of the step, not of a stage's version, so that cadences do not stretch them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["CONSTANT", "Constant", "Cosine", "CosineRestarts", "InTurn", "Schedule", "Steps", "doubling_restarts"]

Schedule: TypeAlias = Callable[[int], float]
"""A factor as a function of the step: for the learning rate, or for what else takes a schedule."""


@dataclass(frozen=True)
class Constant:
    """The learning rate as it was given."""

    def __call__(self, step: int) -> float:
        return 1.0


CONSTANT = Constant()


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


@dataclass(frozen=True)
class CosineRestarts:
    """Fall along half a cosine again and again: from 1 at each restart to `floor` just before the next.

    Source: Loshchilov & Hutter 2017 (SGDR, arXiv 1608.03983), eq. 5. Differs: restarts are where they are said to be,
    so that `Alternating` can change over at the same steps.
    """

    at: tuple[int, ...]
    """Increasing steps of the restarts, within (0, total); `doubling_restarts` makes them."""
    total: int
    """Step at which the last fall ends; the floor holds from there on."""
    floor: float = 0.0
    """The factor at the end of each fall."""

    def __post_init__(self) -> None:
        edges = [0, *self.at, self.total]
        if edges != sorted(set(edges)):
            raise ValueError(f"the restarts must increase within (0, total), got at {self.at}, total {self.total}.")

    def __call__(self, step: int) -> float:
        edges = [0, *self.at, self.total]
        if step >= self.total:
            return self.floor
        last = sum(step >= restart for restart in self.at)
        progress = (step - edges[last]) / (edges[last + 1] - edges[last])
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class InTurn:
    """Factors that take turns: the first before `at[0]`, the next from there to `at[1]`, and round and round.

    As the injection of `RecurrentDNI`, with the restarts of a `CosineRestarts`, real and synthetic gradients alternate
    (Shang & Zhang 2019, arXiv 1902.10630): `InTurn(doubling_restarts(500, total=4000), factors=(0.0, 0.1))`.
    """

    at: tuple[int, ...]
    """Increasing steps, from 1 on, at which the next factor takes over; `doubling_restarts` makes them."""
    factors: tuple[float, ...] = (0.0, 1.0)
    """In the order of their turns."""

    def __post_init__(self) -> None:
        edges = [0, *self.at]
        if edges != sorted(set(edges)):
            raise ValueError(f"factors must take turns at increasing steps from 1 on, got at {self.at}.")
        if not self.factors:
            raise ValueError("there must be at least one factor to take its turn, got none.")

    def __call__(self, step: int) -> float:
        return self.factors[sum(step >= change for change in self.at) % len(self.factors)]


def doubling_restarts(first: int, *, total: int) -> tuple[int, ...]:
    """The steps first, 2 first, 4 first, ... below `total`.    Source: Shang & Zhang 2019, restarts at epoch 5 2^k.

    Raises:
        ValueError: there is no first step.
    """
    if first < 1:
        raise ValueError(f"the first restart must come after at least 1 step, got {first}.")
    steps = []
    while first < total:
        steps.append(first)
        first *= 2
    return tuple(steps)
