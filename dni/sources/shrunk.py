"""How much of a gradient that may be late should be believed?"""

from __future__ import annotations

import torch
from torch import nn

from dni.members import Members, carriers, like
from dni.sources.source import Need, Signal
from dni.structure.origin import Origin

__all__ = ["ShrunkGradient"]


class ShrunkGradient(nn.Module):
    """Use a share of the gradient that the stage above sends down.

    g = β δ, with δ = dL/dh as it came from above. g moves the stage, and pulled back through it is the δ of the stage
    below. So shrinking compounds with depth: of S stages, stage i learns from β^(S - 1 - i) of the gradient, and the
    last from all of it. Give each boundary a source of its own (`source=(ShrunkGradient(0.5), ShrunkGradient(0.2))`)
    for a β that depends on the depth. β = 1 is `TrueGradient`, bit for bit. A sync step uses the gradient as it comes.

    Whether the gradient is late, and what is kept until it comes, is the stash's business: with a `stash` of
    "weights" or "recompute" and a bound above 1 this is the method of the paper.

    Source: Zhuang et al. 2022 (arXiv 1906.09108), gradient shrinking; in the authors' code every module but the last
    starts its backward from β δ. Differs: there forwards are delayed by a fixed number of ticks, too.

    Args:
        beta: β in (0, 1].

    Raises:
        ValueError: β lies outside (0, 1].
    """

    needs = Need.GRADIENT
    learns_from = Need.NONE

    def __init__(self, beta: float) -> None:
        super().__init__()
        if not 0.0 < beta <= 1.0:
            raise ValueError(f"beta must lie in (0, 1], got {beta}. Use ZeroGradient or NoGradient for nothing at all.")
        self.beta = beta

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        """Nothing to build."""

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        """Nothing to remap."""

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        if self.beta == 1.0 or signal.gradient is None:
            return signal.gradient
        return like(h, [self.beta * member for member in carriers(signal.gradient)])

    def learn(self, h: Members, signal: Signal) -> float:
        return 0.0
