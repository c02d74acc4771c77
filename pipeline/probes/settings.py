"""What does a person decide about a probe?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipeline.errors import ConfigurationError

__all__ = ["Direction", "ProbeSettings", "Split"]

Split: TypeAlias = Literal["test", "train"]
Direction: TypeAlias = Literal["gradient", "used"]


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """How much is looked at, and where."""

    samples: int | None = None
    """Samples that are looked at, the first of the split; by default 1,000 (representations 4,000, hessian 500), or all
    if there are fewer."""
    split: Split = "test"
    """Where they are from."""
    batch: int = 250
    """Samples in memory at the same time; time hardly depends on it. Pairs of samples are compared within a batch."""
    layers: tuple[str, ...] = ()
    """Layers by their names in the whole network: those whose Hessian is looked at (by default every Linear and
    Conv), and those whose outputs are measured beside those of the stages (by default none)."""
    direction: Direction = "gradient"
    """Along which curvature is measured: the true gradient, or the used one, which the stages learn from."""
    top: int = 10
    """Eigenvalues of each layer's Hessian, from the largest."""
    draws: int = 10
    """Random vectors for traces, densities and the quality of Kronecker factors; errors fall with their root."""
    points: int = 21
    """Points of a line of the landscape; a plane has half as many along each side."""
    reach: float = 0.1
    """How far a line goes to each side, as a share of the norm of all weights."""
    seed: int = 0
    """Of whatever a probe draws."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it computes."""

    def __post_init__(self) -> None:
        least = {"samples": 4, "batch": 4, "top": 1, "draws": 2, "points": 3}
        for name, bound in least.items():
            found = getattr(self, name)
            if found is not None and found < bound:
                raise ConfigurationError(f"{name} must be at least {bound}, got {found}.")
        if not 0 < self.reach < math.inf:
            raise ConfigurationError(f"reach must be greater than 0 and finite, got {self.reach}.")
