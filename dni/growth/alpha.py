"""How is new capacity phased in?

What new units add is scaled by one alpha, which a ramp raises from 0 to 1. As a gate, y = W h + alpha V s(U x), alpha
acts at every step until it is 1 and the gate is removed (`gate`, `phase`); as an initial scale, V = alpha V0, once.

At alpha = 0 a gate passes no gradient to V or U; an initial scale of 0 passes the whole gradient to V and none to U.
Adam undoes the size of gradients on either path, so there alpha only sets how far the *function* moves per step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

__all__ = ["CosineRamp", "LinearRamp", "LossRamp", "Progress", "Ramp", "ramp_from_json", "ramp_to_json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a phase-in has come: a value, kept in the checkpoint."""

    num_steps: int = 0
    """Steps that its ramp has counted."""
    alpha: float = 0.0
    """In [0, 1]; at 1 it is over."""
    smoothed: float = 0.0
    """Mean loss of late, for ramps that look at it."""
    best: float = 0.0
    """The lowest it has been since."""

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Progress:
        """What `to_json` wrote."""
        return Progress(**value)

    def to_json(self) -> dict[str, Any]:
        """Its numbers by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearRamp:
    """alpha = t / num_steps.    Source: Karras et al. 2017 (arXiv 1710.10196), who take 600,000 images."""

    num_steps: int
    """Steps from 0 to 1."""

    def __post_init__(self) -> None:
        _check_steps(self.num_steps)

    def advance(self, progress: Progress, loss: float | None) -> Progress:
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

    def advance(self, progress: Progress, loss: float | None) -> Progress:
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

    def advance(self, progress: Progress, loss: float | None) -> Progress:
        """The progress after one more step of this loss (per sample); the same as before while there is none yet.

        Raises:
            ValueError: the loss is negative or not finite.
        """
        if loss is None:
            return progress
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


Ramp: TypeAlias = LinearRamp | CosineRamp | LossRamp
"""Raises alpha. These are all, because a checkpoint and a plan have to name them."""

_KINDS: Mapping[str, type[LinearRamp] | type[CosineRamp] | type[LossRamp]] = MappingProxyType(
    {"linear": LinearRamp, "cosine": CosineRamp, "loss": LossRamp}
)


def ramp_to_json(ramp: Ramp) -> dict[str, Any]:
    """A ramp's kind and settings."""
    kind = next(kind for kind, own in _KINDS.items() if isinstance(ramp, own))
    return {"kind": kind, **asdict(ramp)}


def ramp_from_json(value: Mapping[str, Any]) -> Ramp:
    """What `ramp_to_json` wrote.

    Raises:
        ValueError: there is no such kind of ramp.
    """
    settings = dict(value)
    kind = settings.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"a ramp must be of kind {', '.join(_KINDS)}, got {kind!r}.")
    return _KINDS[kind](**settings)


def _check_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"a ramp takes one step or more, got {num_steps}. To add units at once, do without a ramp.")
