"""What may an action look at when it plans, and what must have been measured for it?

An action sees one stage, right after an update. Replicas must see the same, so what is measured is averaged over them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Flag, auto
from typing import Any, Protocol

from torch import Tensor, nn

from dni.measures.active import Masks
from dni.structure.hidden import Hidden
from dni.structure.keyed import Keyed

__all__ = ["Measure", "StageView", "measured", "with_gradients"]


class Measure(Flag):
    """What an action asks to have measured before it plans: of the last microbatch or update, but for INITIAL."""

    NOTHING = 0
    GRADIENT = auto()
    """Dense mean gradients of the update, before masks."""
    ACTIVITY = auto()
    """E|h| of each unit of the action's layers, behind the nonlinearity."""
    TAYLOR = auto()
    """E|mean of h dL/dh| of each unit, see `score_unit_taylor`."""
    AUXILIARY = auto()
    """G, the gradient that a layer of zeros past the units would have, see `auxiliary_gradient`."""
    INITIAL = auto()
    """The values that parameters began with, kept since the run began: one more copy of those that learn."""


class StageView(Protocol):
    """One stage, to be looked at only. All names are global."""

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """All of the stage."""

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """By parameter, if asked for with GRADIENT."""

    @property
    def activity(self) -> Mapping[str, Tensor]:
        """By layer, (U,), if asked for with ACTIVITY."""

    @property
    def taylor(self) -> Mapping[str, Tensor]:
        """By layer, (U,), if asked for with TAYLOR."""

    @property
    def auxiliary(self) -> Mapping[str, Tensor]:
        """By layer, if asked for with AUXILIARY."""

    @property
    def initial(self) -> Mapping[str, Tensor]:
        """By parameter that learns, its initial values, if asked for with INITIAL.

        Those of when the run began, or of when entries came to be: by growth, as an attached part, redrawn by a reset;
        0 once they were pruned by a mask, whatever comes back of them.
        """

    @property
    def kept(self) -> Masks:
        """The masks that are held now; what has none is dense."""

    @property
    def state(self) -> Mapping[str, Any]:
        """What this event's last plan left in `UnitPlan.state`; empty before the first."""

    def has(self, name: str) -> bool:
        """Whether a module of this name, with parameters or without, is in the stage."""

    def layer(self, name: str) -> nn.Module:
        """A module of the stage."""

    def units(self, layer: str) -> Hidden:
        """The units that a layer computes.

        Raises:
            ValueError: they cannot change, or the layer is not of this stage.
        """

    def fresh(self, layer: str, keyed: Keyed) -> Mapping[str, Tensor]:
        """Initial values, drawn now, of all parameters and running statistics within a module; see `fresh_values`."""


def measured(values: Mapping[str, Tensor], layer: str, *, num_units: int) -> Tensor:
    """What was measured of a layer's units, (U,).

    Raises:
        ValueError: nothing was, or of another number of units.
    """
    found = tuple(values[layer].shape) if layer in values else f"measures of {', '.join(values) or 'nothing'}"
    if found != (num_units,):
        raise ValueError(
            f"the units of {layer} must have been measured, ({num_units},), before an event that asks for it is "
            f"planned, got {found}. Measure after the last change of the layer."
        )
    return values[layer].detach()


def with_gradients(view: StageView, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of these names as tensors that share their memory, with the dense gradients in `.grad`."""
    seen = {name: view.parameters[name].detach() for name in names}
    for name, value in seen.items():
        value.grad = view.gradients.get(name)
    return seen
