"""What happens to a network while it trains, and when?"""

from __future__ import annotations

from dataclasses import dataclass

from dni.cadences.blocks import Shapes
from dni.events.action import Action
from dni.events.plateau import OnPlateau
from dni.events.when import When

__all__ = ["Event"]


@dataclass(frozen=True)
class Event:
    """`Event(EpochEnds(), PruneUnits(layers=("0",), amount=Share(0.1)))`.

    Events that are due at one step are planned and applied one after the other, in the order in which they are listed.
    """

    when: When | OnPlateau
    """Its schedule."""
    action: Action
    """What is done."""
    name: str = ""
    """For people, records and errors; empty: that of the action."""

    def __post_init__(self) -> None:
        if not isinstance(self.when, When | OnPlateau):
            raise TypeError(
                f"an event is due by a schedule (At, EverySteps, EpochEnds, AtRandom, OnPlateau), got {self.when!r}."
            )
        if not isinstance(self.action, Action):
            raise TypeError(f"an event does an action (PruneUnits, Grow, Shock, ...), got {self.action!r}.")

    @property
    def label(self) -> str:
        """Its name, or that of its action."""
        return self.name or self.action.name

    def check(self, shapes: Shapes, *, num_steps: int, steps_per_epoch: int | None) -> None:
        """Raise `ValueError`, naming the event, if a run cannot have it.

        Args:
            shapes: of all parameters of the network, by global name.
            num_steps: of the run.
            steps_per_epoch: None: not known.
        """
        try:
            self.when.check(num_steps=num_steps, steps_per_epoch=steps_per_epoch)
            self.action.check(shapes)
        except ValueError as error:
            raise ValueError(f"event {self.label!r}: {error}") from error
