"""Which blocks of a stage learn at a step, and what does the stage pull back for them, or for those below?

Every stage works it out for itself from keyed draws, so nothing about it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from dni import Draw, Layout
from dni import Participation as Policy

__all__ = ["Boundary", "Participants", "Participation"]

_RECENT = 256
"""Steps whose answer is kept: it is asked for at forward, backward and update, by every stage of the process."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """What the source of a boundary makes of gradients from above."""

    acts: bool
    """Its stage pulls them back."""
    learns: bool
    """It learns from them, whether its stage does or not."""


@dataclass(frozen=True, slots=True)
class _Passing:
    """What becomes of gradients at a step, per stage."""

    pulls: tuple[bool, ...]
    wanted_below: tuple[bool, ...]


class Participation:
    """Who learns, and what is pulled back for it; shared by the stages of a process.

    Args:
        policy: decides.
        layout: the blocks of the network.
        boundaries: their sources, from the bottom up.
        draw: for random policies.
    """

    def __init__(self, policy: Policy, layout: Layout, boundaries: Sequence[Boundary], *, draw: Draw) -> None:
        self.policy = policy
        self.stages = layout.stages
        """Their blocks."""
        self.learning = lru_cache(_RECENT)(lambda step: policy.learning(step, layout, draw))
        """The blocks that learn at a step, with the factors of their learning rates."""
        self.passing = lru_cache(_RECENT)(self._passing)
        """What becomes of gradients at a step, and a reach."""
        self._boundaries = tuple(boundaries)

    def _passing(self, step: int, reach: int) -> _Passing:
        learning = self.learning(step)
        pulls: list[bool] = []
        wanted_below: list[bool] = []
        for index, blocks in enumerate(self.stages):
            wanted = False
            if index:
                boundary, within_reach = self._boundaries[index - 1], reach > len(self.stages) - index
                wanted = boundary.learns or ((boundary.acts or within_reach) and pulls[-1])
            wanted_below.append(wanted)
            pulls.append(wanted or any(block in learning for block in blocks))
        return _Passing(tuple(pulls), tuple(wanted_below))


@dataclass(frozen=True, slots=True)
class Participants:
    """Who learns, as one stage has to know it."""

    shared: Participation
    index: int
    """Of the stage."""

    @property
    def forgets(self) -> bool:
        """Whether blocks that pause lose their optimiser state."""
        return self.shared.policy.forgets

    @property
    def sets_rates(self) -> bool:
        """Whether learning rates have factors."""
        return self.shared.policy.sets_rates

    def own(self, step: int) -> Mapping[str, float]:
        """The stage's blocks that learn at a step, with the factors of their learning rates."""
        learning = self.shared.learning(step)
        return {block: learning[block] for block in self.shared.stages[self.index] if block in learning}

    def pulls(self, step: int, reach: int) -> bool:
        """Whether the stage has anything to pull a gradient back for, here or below, at a step of this reach."""
        return self.shared.passing(step, reach).pulls[self.index]

    def wanted_below(self, step: int, reach: int) -> bool:
        """Whether anything below makes something of the gradient at the stage's input."""
        return self.shared.passing(step, reach).wanted_below[self.index]
