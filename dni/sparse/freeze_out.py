"""Layers stop learning one after the other, from the input up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dni.cadences.pace import Draw
from dni.sparse.participation import Layout

__all__ = ["FreezeOut"]


@dataclass(frozen=True)
class FreezeOut:
    """The rate of layer i falls to 0 at its own time t_i, and from then on the layer is left out of the backward.

        t_i = t_0 + (1 - t_0) i / (L - 1), cubed if `cubic`
        rate_i(t) = (1 + cos(pi t / t_i)) / 2, divided by t_i if `scaled`

    with t in parts of the run. The last layer, t = 1, learns to the end.    Source: Brock et al. 2017 (FreezeOut, arXiv
    1706.04983) and its code. Differs: the factors are those of each layer here, of each convolution or block there.
    """

    steps: int
    """Of the whole run."""
    first: float = 0.8
    """t_0, before it is cubed: when the lowest layer stops, as a part of the run."""
    cubic: bool = True
    scaled: bool = True
    """Whether layers that stop early begin at a higher rate, so that each moves as far."""

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0.0 < self.first <= 1.0:
            raise ValueError(
                f"FreezeOut needs at least 1 step and a first time in (0, 1], got {self.steps} and {self.first}."
            )

    @property
    def sets_rates(self) -> bool:
        return True

    @property
    def forgets(self) -> bool:
        return False

    def check(self, layout: Layout) -> None:
        """Any network will do."""

    def learning(self, step: int, layout: Layout, draw: Draw) -> Mapping[str, float]:
        now = step / self.steps
        ends = {block: self.end(index, len(layout.blocks)) for index, block in enumerate(layout.blocks)}
        return {
            block: (1.0 + math.cos(math.pi * now / end)) / 2.0 / (end if self.scaled else 1.0)
            for block, end in ends.items()
            if now < end
        }

    def end(self, index: int, num_layers: int) -> float:
        """When layer `index`, counted from the input, stops; as a part of the run."""
        end = self.first + (1.0 - self.first) * index / max(1, num_layers - 1)
        return float(end**3) if self.cubic else end
