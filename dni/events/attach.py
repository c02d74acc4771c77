"""How does a network get a whole new part?"""

from __future__ import annotations

from dataclasses import dataclass

from dni.cadences.blocks import Shapes
from dni.events.plan import PartPlan
from dni.events.targets import check_held, check_names
from dni.events.view import Measure, StageView
from dni.growth.alpha import Ramp
from dni.growth.part import Component, Insertion
from dni.structure.keyed import Keyed

__all__ = ["Attach"]


@dataclass(frozen=True, kw_only=True)
class Attach:
    """Put a small network beside a layer, or a layer that is the identity behind an activation; see `attach_`.

    The function stays: that of a component at its alpha of 0, or with a ramp. Each time that the event is due another
    part is attached.
    """

    edit: Component | Insertion
    """The part, and where it belongs."""
    ramp: Ramp | None = None
    """Of a gate in front of what a component puts out, which begins closed; None: there is none."""

    def __post_init__(self) -> None:
        if not isinstance(self.edit, Component | Insertion):
            raise TypeError(f"what is attached is a Component or an Insertion, got {self.edit!r}.")
        check_names((self._place,))
        if self.ramp is None:
            return
        if isinstance(self.edit, Insertion):
            raise ValueError(
                "a layer that is inserted is the identity at first, so there is nothing to phase in; got "
                f"{self.ramp!r}. Leave the ramp out."
            )
        if self.edit.alpha == 0.0:
            raise ValueError(
                "a gate needs something behind it that it opens to, got a component with alpha=0. Give it alpha=1 with "
                "a ramp."
            )

    @property
    def name(self) -> str:
        return "attach"

    @property
    def layers(self) -> tuple[str, ...]:
        return (self._place,)

    @property
    def asks(self) -> Measure:
        return Measure.NOTHING

    def check(self, shapes: Shapes) -> None:
        if isinstance(self.edit, Insertion):
            if own := [name for name in shapes if name.startswith(f"{self._place}.")]:
                raise ValueError(
                    "a layer is inserted behind an activation, which has no parameters, but "
                    f"{self._place} has {', '.join(own)}. Name the activation behind it."
                )
            return
        check_held(self.layers, shapes, num_axes=2)
        shape = shapes.get(f"{self._place}.weight")
        if shape is not None and self.edit.kernel and len(self.edit.kernel) != len(shape) - 2:
            raise ValueError(
                f"the kernel of a component has as many sizes as that of the layer beside it, {len(shape) - 2} for "
                f"{self._place} with a weight of {tuple(shape)}, got {self.edit.kernel}. Leave it out for one like it."
            )

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> PartPlan | None:
        if not view.has(self._place):
            return None
        edit, kernel = self.edit, "x".join(map(str, self.edit.kernel))
        if isinstance(edit, Insertion):
            summary = (
                f"insert a layer of {edit.units} units{f', kernel {kernel},' if kernel else ''} behind {edit.behind}"
            )
        else:
            gate = "" if self.ramp is None else ", behind a gate"
            what = f"{edit.units} {edit.activation} units{f', kernel {kernel},' if kernel else ''}"
            summary = f"attach a component of {what} beside {edit.layer} (alpha {edit.alpha:g}{gate})"
        return PartPlan(summary=summary, step=step, edit=edit, ramp=self.ramp)

    @property
    def _place(self) -> str:
        return self.edit.layer if isinstance(self.edit, Component) else self.edit.behind
