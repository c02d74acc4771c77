"""For a while at a time, each layer learns or pauses by a draw of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dni.cadences.pace import Draw
from dni.sparse.participation import Layout

__all__ = ["LayerOut"]


@dataclass(frozen=True)
class LayerOut:
    """Layer i learns for `every` steps with probability p_i, linear from the input to the output.

    Source: Goutam et al. 2020 (LayerOut) and its code, where `every` is an epoch and p runs from 0.9 to 0.1 from one
    end. Differs: the layer at the output always learns, as there would be nothing to do in some epochs; momentum is
    forgotten by layers that pause, where a new optimiser for every epoch has all of them forget it there.
    """

    every: int
    """Steps from one draw to the next."""
    lowest: float = 0.1
    """Probability that the layer at the input learns."""
    highest: float = 0.9
    """That of the layer next to the output."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"LayerOut draws every so many steps, at least 1, got {self.every}.")
        for probability in (self.lowest, self.highest):
            if not 0.0 <= probability <= 1.0:
                raise ValueError(f"the probability that a layer learns must lie in [0, 1], got {probability}.")

    @property
    def sets_rates(self) -> bool:
        return False

    @property
    def forgets(self) -> bool:
        return True

    def check(self, layout: Layout) -> None:
        """Any network will do."""

    def learning(self, step: int, layout: Layout, draw: Draw) -> Mapping[str, float]:
        *below, last = layout.blocks
        drawn = [
            block
            for index, block in enumerate(below)
            if draw(block, step // self.every) < self._probability(index, len(below))
        ]
        return dict.fromkeys([*drawn, last], 1.0)

    def _probability(self, index: int, count: int) -> float:
        return self.lowest + (self.highest - self.lowest) * index / max(1, count - 1)
