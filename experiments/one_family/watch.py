"""How close is a gradient to backprop's at the moment at which a stage uses it?

A probe asks when nothing is in flight, and takes for the truth what comes down through the network's own layers; so it
finds nothing wrong with gradients that are late, or that came back through other weights than the forward's. This looks
at training microbatches instead, and computes the truth with plain layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import GradientSource, Members, NoGradient, Signal, agreement
from pipeline import partition
from pipeline.configuration.prepared import Prepared

__all__ = ["Watched", "watch"]


class Watched(nn.Module):
    """A source that acts as it would alone, and is compared with backprop now and then.

    The truth is dL/dh at the same h, backpropagated through the stages above as they are at that moment, BatchNorm with
    the statistics of the microbatch. So it is not counted that h itself may be of older weights.

    Args:
        source: acts and learns.
        above: the stages above, as they are trained.
        plain: modules of the same architecture without anything special on the way back.
        first: step from which on it looks.
        every: steps from one look to the next.
    """

    def __init__(
        self, source: GradientSource, above: Sequence[nn.Module], plain: Sequence[nn.Module], *, first: int, every: int
    ) -> None:
        super().__init__()
        self.source = source
        self.needs = source.needs
        self.learns_from = source.learns_from
        self.cosines: list[float] = []
        """At the steps at which it looked, in order."""
        self._stages = tuple(zip(above, plain, strict=True))  # a tuple, so that they are no parts of this module
        self._first, self._every = first, every

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        self.source.build(h, generator=generator)

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        used = self.source.estimate(h, signal)
        if isinstance(used, Tensor) and signal.step >= self._first and signal.step % self._every == 0:
            assert isinstance(h, Tensor) and signal.target is not None
            self.cosines.append(agreement([used], [self._truth(h, signal.target)])["cosine"])
        return used

    def learn(self, h: Members, signal: Signal) -> float:
        return self.source.learn(h, signal)

    def _truth(self, h: Tensor, target: Tensor) -> Tensor:
        leaf = h.detach().requires_grad_()
        with torch.enable_grad():
            y = leaf
            for trained, plain in self._stages:
                state = trained.state_dict().items()
                # A plain layer has no use for the weights of the way back.
                plain.load_state_dict({name: value for name, value in state if name.split(".")[-1] != "feedback"})
                y = plain.train()(y)
            loss = F.cross_entropy(y, target, reduction="sum")
        (truth,) = torch.autograd.grad(loss, leaf)
        return truth


def watch(prepared: Prepared, plain: Sequence[nn.Module], *, first: int, every: int) -> tuple[Prepared, Watched | None]:
    """The same run with the source at the bottom boundary watched; None for one that never gives a gradient.

    Args:
        prepared: the run.
        plain: modules that are the stages, plain; the first is not used.
        first: step from which on the watcher looks.
        every: steps from one look to the next.
    """
    bottom, *others = prepared.sources
    if isinstance(bottom, NoGradient):
        return prepared, None
    twins = partition(plain).stages  # so that their parameters have the same names
    watched = Watched(bottom, prepared.cut.stages[1:], twins[1:], first=first, every=every)
    return replace(prepared, sources=(watched, *others)), watched
