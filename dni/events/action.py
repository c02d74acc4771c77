"""What is done to a stage when an event is due?"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from dni.cadences.blocks import Shapes
from dni.events.plan import Plan
from dni.events.view import Measure, StageView
from dni.structure.keyed import Keyed

__all__ = ["Action"]


@runtime_checkable
class Action(Protocol):
    """Plans a change of one stage. A value; its own numbers have been checked when it was made.

    An action acts on one stage at a time: where its layers lie in several stages, or it means all weights, each stage
    plans for itself what concerns the layers that it holds, and amounts are of that stage.
    """

    @property
    def name(self) -> str:
        """Short, for people; the default name of its event."""

    @property
    def layers(self) -> tuple[str, ...] | None:
        """Global names of the modules that it concerns; None: all of them."""

    @property
    def asks(self) -> Measure:
        """What is to be measured for it."""

    def check(self, shapes: Shapes) -> None:
        """Raise `ValueError` if a network cannot have it.

        Args:
            shapes: of all parameters of the whole network, by global name.
        """

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> Plan | None:
        """What is to be done now; changes nothing.

        Args:
            view: the stage, with what the action asks for.
            step: of the event.
            keyed: a generator for each global name, that belongs to (event, step).

        Returns:
            None: nothing is to be done in this stage.

        Raises:
            ValueError: it cannot be done. The stage stays as it is.
        """
