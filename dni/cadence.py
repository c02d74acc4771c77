"""When does a stage apply the gradient it has accumulated?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["Cadence", "Periodic"]


@runtime_checkable
class Cadence(Protocol):
    """Decides at which steps accumulated gradients are applied."""

    def due(self, step: int) -> bool:
        """Whether an update falls due once the microbatch `step` has been learned from."""


@dataclass(frozen=True)
class Periodic:
    """Apply every `period` steps, after steps period - 1, 2 period - 1, ..."""

    period: int = 1
    """Steps from one update to the next."""

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ValueError(f"a cadence's period must be at least 1 step, got {self.period}.")

    def due(self, step: int) -> bool:
        return (step + 1) % self.period == 0
