"""What does an event change in the tensors of a stage?

A change is a value: it is planned from what is there, printed, logged, sent, and applied elsewhere to the same end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dni.growth.alpha import Ramp, ramp_from_json, ramp_to_json
from dni.structure.followers import AxisChange
from dni.structure.optimizer_state import Memory
from dni.structure.origin import Origin

__all__ = ["NewUnits", "TensorChange", "UnitChange"]


@dataclass(frozen=True, eq=False, kw_only=True)
class TensorChange:
    """What becomes of a parameter or a buffer."""

    axes: tuple[AxisChange, ...] = ()
    """One for each axis that changes; a unit that begins anew is one whose source is `NEW`."""
    value: Tensor | None = None
    """All of it, in its new shape; None: what the axes make of the old one, with new entries 0."""
    memory: Memory = "keep"
    """What becomes of the optimiser's state of entries that were there before. New ones have none."""
    anew: Tensor | None = None
    """Entries that were there and begin anew with `value`, bool of the new shape: `memory` is about them alone, and
    these are their initial values from here on. None: `memory` is about all, and initial values stay what they were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUnits:
    """How units begin that were not there, and what is done to copies."""

    alpha: float = 0.0
    """Weights that read new units are alpha times as torch's layers begin; 0 leaves the function as it is."""
    noise: float = 0.0
    """Standard deviation, in that of the weights, of what is added to weights that read copies; adds up to 0 over the
    copies of a unit, so the function is kept."""
    ramp: Ramp | None = None
    """Opens a gate in front of what reads the new units; None: there is no gate."""

    def __post_init__(self) -> None:
        if not (0 <= self.alpha <= 1 and self.noise >= 0):
            raise ValueError(
                "alpha, the scale of what new units add, must lie in [0, 1], and the noise be 0 or more; got "
                f"{self.alpha} and {self.noise}."
            )

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> NewUnits:
        """What `to_json` wrote."""
        ramp = None if value["ramp"] is None else ramp_from_json(value["ramp"])
        return NewUnits(alpha=value["alpha"], noise=value["noise"], ramp=ramp)

    def to_json(self) -> dict[str, Any]:
        """Numbers and names."""
        ramp = None if self.ramp is None else ramp_to_json(self.ramp)
        return {"alpha": self.alpha, "noise": self.noise, "ramp": ramp}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitChange:
    """What becomes of the units of a layer."""

    layer: str
    """Name of the layer that computes them."""
    origin: Origin
    """Of its units."""
    new: NewUnits = field(default_factory=NewUnits)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> UnitChange:
        """What `to_json` wrote."""
        return UnitChange(
            layer=value["layer"], origin=Origin.from_json(value["origin"]), new=NewUnits.from_json(value["new"])
        )

    def to_json(self) -> dict[str, Any]:
        """Numbers and names."""
        return {"layer": self.layer, "origin": self.origin.to_json(), "new": self.new.to_json()}
