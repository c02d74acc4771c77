"""Which blocks of a stage learn at a step, and what does the stage pull back for them, or for those below?

Every stage works it out for itself from keyed draws, so nothing about it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from dni import Draw, Layout, Participation

__all__ = ["Boundary", "Participants"]

_RECENT = 64
"""Steps whose answer is kept: it is asked for at forward, backward and update."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """What the source of a boundary makes of gradients from above."""

    acts: bool
    """Its stage pulls them back."""
    learns: bool
    """It learns from them, whether its stage does or not."""


class Participants:
    """Who learns, as stage `index` has to know it.

    Args:
        policy: decides.
        layout: the blocks of the network.
        boundaries: their sources, from the bottom up.
        index: of the stage.
        draw: for random policies.
    """

    def __init__(
        self, policy: Participation, layout: Layout, boundaries: Sequence[Boundary], *, index: int, draw: Draw
    ) -> None:
        self.forgets = policy.forgets
        """Whether blocks that pause lose their optimiser state."""
        self.sets_rates = policy.sets_rates
        """Whether their learning rates have factors."""
        self._boundaries = tuple(boundaries)
        self._stages = tuple(frozenset(stage) for stage in layout.stages)
        self._index = index
        self._learning = lru_cache(_RECENT)(lambda step: policy.learning(step, layout, draw))

    def own(self, step: int) -> Mapping[str, float]:
        """The stage's blocks that learn at a step, with the factors of their learning rates."""
        return {block: rate for block, rate in self._learning(step).items() if block in self._stages[self._index]}

    def pulls(self, step: int, reach: int) -> bool:
        """Whether the stage has anything to pull a gradient back for, at a step of this reach."""
        return self._pulls(self._index, step, reach)

    def wanted_below(self, step: int, reach: int) -> bool:
        """Whether anything below makes something of the gradient at the stage's input."""
        return self._index > 0 and self._wants(self._index - 1, step, reach)

    def _pulls(self, stage: int, step: int, reach: int) -> bool:
        if not self._stages[stage].isdisjoint(self._learning(step)):
            return True
        return stage > 0 and self._wants(stage - 1, step, reach)

    def _wants(self, below: int, step: int, reach: int) -> bool:
        boundary = self._boundaries[below]
        within_reach = reach >= len(self._stages) - below
        return boundary.learns or ((boundary.acts or within_reach) and self._pulls(below, step, reach))
