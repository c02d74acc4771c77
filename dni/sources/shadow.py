"""How well would a source do, if it did not act?"""

from __future__ import annotations

import torch
from torch import nn

from dni.members import Members
from dni.sources.exact import TrueGradient
from dni.sources.remapping import remap_together_
from dni.sources.source import GradientSource, Signal
from dni.structure.origin import Origin

__all__ = ["Shadow"]


class Shadow(nn.Module):
    """Let one source learn beside another that acts, so that it can be measured and changes nothing.

    What `source.estimate` would have given is there to be compared; the stage gets what `acting` gives, bit
    for bit.

    Args:
        source: learns, and does not act.
        acting: gives the gradient, and learns if it can; None: the true gradient.
    """

    def __init__(self, source: GradientSource, acting: GradientSource | None = None) -> None:
        super().__init__()
        self.source = source
        self.acting = TrueGradient() if acting is None else acting
        # The shadow's own needs as well: at any step its estimate can be asked for.
        self.needs = self.acting.needs | source.needs
        self.learns_from = self.acting.learns_from | source.learns_from

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        # The acting source first: it draws what it would have drawn alone.
        self.acting.build(h, generator=generator)
        self.source.build(h, generator=generator)

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        remap_together_([self.acting, self.source], origin, generator=generator, axis=axis)

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        return self.acting.estimate(h, signal)

    def learn(self, h: Members, signal: Signal) -> float:
        """Let both learn; return the shadow's loss."""
        self.acting.learn(h, signal)
        return self.source.learn(h, signal)
