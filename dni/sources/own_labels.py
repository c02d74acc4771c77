"""What if a source's labels are only a part of the microbatch's, as where stages have tasks of their own?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from dni.members import Members
from dni.sources.implied import implied_loss
from dni.sources.remapping import remap_together_
from dni.sources.source import GradientSource, Signal
from dni.structure.origin import Origin

__all__ = ["OwnLabels"]


class OwnLabels(nn.Module):
    """Give a source labels of its own, made from the target that travels with the microbatch.

    Args:
        source: sees them in the place of the target.
        labels: what of a target, (N, ...), they are, as `lambda target: target[..., 0]`. Where the data are tensors in
            memory, it is called with all of their targets, too, (M, ...), to see that they are classes of the source.
    """

    def __init__(self, source: GradientSource, labels: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.source = source
        self.labels = labels
        self.needs = source.needs
        self.learns_from = source.learns_from

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        self.source.build(h, generator=generator)

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        remap_together_([self.source], origin, generator=generator, axis=axis)

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        return self.source.estimate(h, self._own(signal))

    def implied_loss(self, h: Members, signal: Signal) -> Tensor:
        """As `ImpliesLoss`.

        Raises:
            TypeError: the source implies none.
        """
        return implied_loss(self.source, h, self._own(signal))

    def learn(self, h: Members, signal: Signal) -> float:
        return self.source.learn(h, self._own(signal))

    def _own(self, signal: Signal) -> Signal:
        return signal if signal.target is None else replace(signal, target=self.labels(signal.target))
