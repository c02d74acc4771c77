"""A source that never gives a gradient: the stages below the top stay as they were initialised."""

from __future__ import annotations

import torch
from torch import nn

from dni.members import Members
from dni.sources.source import Need, Signal
from dni.structure.origin import Origin

__all__ = ["NoGradient"]


class NoGradient(nn.Module):
    """Learn only at sync steps, where the truth arrives; never, without them: "No Bprop" (Jaderberg et al. 2017).

    A stage with this source computes no backward pass of its own and sends no gradient.
    """

    needs = Need.NONE
    learns_from = Need.NONE

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        """Nothing to build."""

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        """Nothing to remap."""

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        return None

    def learn(self, h: Members, signal: Signal) -> float:
        return 0.0
