"""A source that says: nothing above depends on this output."""

from __future__ import annotations

import torch
from torch import nn

from dni.members import Members, carriers, like
from dni.sources.source import Need, Signal
from dni.structure.origin import Origin

__all__ = ["ZeroGradient"]


class ZeroGradient(nn.Module):
    """dL/dh = 0: whatever comes after h counts for nothing.

    That is what truncated backpropagation assumes at the end of its window (δ_T = 0 in Jaderberg et al. 2017, section
    2.2), where the losses inside the window are still learned from; and it is the negative control of every other
    source. It is not `NoGradient`, which lets the step go: here there is a backward pass, of zeros. Each `.grad` is 0
    and not None, the update counts, the version rises, momentum and weight decay go on moving the weights (so an
    ordinary stage slowly loses what it knew), and the stage below is sent zeros to learn from. Use `NoGradient` for
    stages that are to stay as they are.
    """

    needs = Need.NONE
    learns_from = Need.NONE

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        """Nothing to build."""

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        """Nothing to remap."""

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        return like(h, [torch.zeros_like(member, requires_grad=False) for member in carriers(h)])

    def learn(self, h: Members, signal: Signal) -> float:
        return 0.0
