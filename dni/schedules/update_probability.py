"""At which steps does a stage learn at all?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["UpdateProbability"]


@dataclass(frozen=True)
class UpdateProbability:
    """A stage learns from a step with a fixed probability, drawn for each stage and step by itself.

    A stage forwards a step it does not draw and does nothing more: it accumulates nothing and sends nothing back. The
    source at its output learns all the same whenever the stage above sends a gradient (in the paper the synthesizer
    belongs to the stage above, which fits it whenever it updates itself); if both had to draw, it would learn from a
    share p^2 of the steps.    Source: Jaderberg et al. 2017, section 3.1, p_update.
    """

    probability: float = 1.0
    """Probability that the stage learns from a step, 0 to 1."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"an update probability must lie in [0, 1], got {self.probability}.")

    def draws(self, generator: torch.Generator) -> bool:
        """Whether the stage learns from the step whose keyed `generator` this is."""
        return torch.rand((), generator=generator, dtype=torch.float64).item() < self.probability
