"""At which steps does a stage learn at all?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["UpdateProbability"]


@dataclass(frozen=True)
class UpdateProbability:
    """A stage learns from a step with a fixed probability, drawn for each stage and step by itself.

    A step not drawn is forwarded only: nothing is learned, accumulated or sent back.
    Source: Jaderberg et al. 2017, section 3.1, p_update.
    """

    probability: float = 1.0
    """Probability that the stage learns from a step, 0 to 1."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"an update probability must lie in [0, 1], got {self.probability}.")

    def draws(self, generator: torch.Generator) -> bool:
        """Whether the stage learns from the step whose keyed `generator` this is."""
        return torch.rand((), generator=generator, dtype=torch.float64).item() < self.probability
