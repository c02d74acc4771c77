"""What of a learner knows the parameters of its module, and is made anew when they are others?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dni import Masks, Pace, Piece
from pipeline.learners.distributions import DistributionMeter
from pipeline.learners.idle import IdleLayers
from pipeline.learners.late_weights import LateWeights
from pipeline.learners.movement import MovementMeter
from pipeline.learners.updater import Updater
from pipeline.learners.weights import AxisChanges

__all__ = ["MakeParts", "Parts", "Remembered"]


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """What parts that are made anew have to know of a stage whose structure has changed."""

    ages: Mapping[str, Sequence[Piece]] = field(default_factory=dict)
    """The pieces of parameters whose entries are not all of one age."""
    masks: Masks = field(default_factory=dict)
    """What is left of parameters that are pruned."""
    history: Sequence[AxisChanges] = ()
    """The changes of structure so far, in order; it grows."""
    pace: Pace | None = None
    """The windows of the blocks; None: those of a run that begins."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Those of one learner."""

    updater: Updater
    """Applies the gradients."""
    weights: LateWeights
    """Those of microbatches whose gradients come late."""
    idle: IdleLayers
    """Leaves out what does not learn at a step."""
    movement: MovementMeter
    """Measures updates."""
    distributions: DistributionMeter
    """Shows them."""


class MakeParts(Protocol):
    """Makes the parts of a learner, for its module as it is."""

    def __call__(self, remembered: Remembered, /) -> Parts:
        """The parts."""
