"""Of which structure is a microbatch in flight, and how does it meet that of today?

It is pulled back with the parameters and for the units that it was forwarded with. Only what runs again, and what a
source learns from, is made what the units are now.
"""

from __future__ import annotations

from dni import carriers
from pipeline.learners.body import Body
from pipeline.learners.boundary import Boundary
from pipeline.stages.stash import Forwarded

__all__ = ["InFlight"]


class InFlight:
    """What one stage knows of the generations of its microbatches.

    Args:
        body: of the stage.
        below: the units of its input.
        above: the units of its output.
    """

    def __init__(self, body: Body, *, below: Boundary, above: Boundary) -> None:
        self._body = body
        self.below, self.above = below, above

    def copy(self) -> InFlight:
        """One whose boundaries may change by themselves."""
        return InFlight(self._body, below=self.below.copy(), above=self.above.copy())

    def stamped(self, entry: Forwarded) -> Forwarded:
        """A microbatch that was just forwarded, with the structure that it is of."""
        entry.generation, entry.generation_below = self.above.generation, self.below.generation
        entry.structure = len(self._body.history)
        return entry

    def renew(self, entry: Forwarded) -> None:
        """A microbatch is run again, by the structure of today: its input is made what the units below are now."""
        assert entry.x is not None
        if entry.generation_below != self.below.generation:
            old = carriers(entry.x)
            entry.x = self.below.translate(entry.x, entry.generation_below, holds="activation")
            for new, before in zip(carriers(entry.x), old, strict=True):
                new.requires_grad_(before.requires_grad)
        self.stamped(entry)
        entry.own_weights = None

    def translate_gradient(self, entry: Forwarded, *, until: int) -> None:
        """What has come from above, for the units of the generation that is pulled back through."""
        if entry.gradient is not None and entry.gradient_generation != until:
            since = entry.gradient_generation
            entry.gradient = self.above.translate(entry.gradient, since, until=until, holds="gradient")
            entry.gradient_generation = until

    def translate_lesson(self, entry: Forwarded) -> None:
        """Output and gradient of a microbatch that the source learns from, for the units of today."""
        today = self.above.generation
        if entry.generation != today:
            entry.h = self.above.translate(entry.h, entry.generation, holds="activation")
            entry.generation = today
        self.translate_gradient(entry, until=today)
