"""Which units begin anew, because they are of no use?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dni.cadences.blocks import Shapes
from dni.events.plan import UnitPlan
from dni.events.targets import check_apart, check_held, check_names, held
from dni.events.view import Measure, StageView, measured
from dni.pruning.importance import score_dormancy
from dni.resets.continual_backprop import ContinualBackprop, UnitUtility
from dni.resets.resets import ReDo, UnitReset, zero_biases
from dni.structure.change import NewUnits, UnitChange
from dni.structure.hidden import Hidden, outgoing_norm
from dni.structure.keyed import Keyed
from dni.structure.origin import Origin

__all__ = ["Recycle"]


@dataclass(frozen=True, kw_only=True)
class Recycle:
    """Let units begin anew in their places: drawn incoming weights, bias 0, outgoing weights 0.

    They are new units, whose optimiser state and count begin with them. If a unit was silent, the output of the network
    stays as it was; under a LayerNorm or GroupNorm it would not, so there it is refused.

    Source: those of the rules. Differs: optimiser state, of which the papers' codes zero moments only, begins anew as a
    whole; norms over a unit begin anew too.

    `ContinualBackprop` counts an update each time the event is due: `EverySteps(1)` is the paper's. What it knows of a
    layer begins anew when the layer's width has changed.
    """

    layers: tuple[str, ...]
    """That compute the units; with `ContinualBackprop`, what reads them must lie in the same stage."""
    rule: ReDo | ContinualBackprop
    """Says which."""

    def __post_init__(self) -> None:
        check_names(self.layers)
        if not isinstance(self.rule, ReDo | ContinualBackprop):
            raise TypeError(f"units are recycled by ReDo or ContinualBackprop, got {self.rule!r}.")

    @property
    def name(self) -> str:
        return "recycle"

    @property
    def asks(self) -> Measure:
        return Measure.ACTIVITY

    def check(self, shapes: Shapes) -> None:
        check_held(self.layers, shapes)

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> UnitPlan | None:
        units = {layer: view.units(layer) for layer in held(self.layers, view)}
        if not units:
            return None
        check_apart(units)
        for own in units.values():  # whichever are due: what is refused is refused the first time
            own.check_kept(Origin.renew([0], num_old=own.num_units))
        activity = {layer: measured(view.activity, layer, num_units=own.num_units) for layer, own in units.items()}
        state: Mapping[str, Any] = {}
        if isinstance(self.rule, ReDo):
            reset = self.rule.plan({layer: score_dormancy(own) for layer, own in activity.items()})
        else:
            reset, state = _least_used(self.rule, units, activity, view.state)
        due = {layer: chosen for layer, chosen in reset.units.items() if chosen}
        if not due and not state:
            return None
        parts = [f"{len(chosen)} of {units[layer].num_units} units of {layer}" for layer, chosen in due.items()]
        return UnitPlan(
            summary=f"recycle {', '.join(parts) or 'no unit'} ({type(self.rule).__name__})",
            step=step,
            changes=tuple(_anew(layer, chosen, units[layer].num_units) for layer, chosen in due.items()),
            given={layer: zero_biases(units[layer], len(chosen)) for layer, chosen in due.items()},
            state=state,
        )


def _anew(layer: str, chosen: tuple[int, ...], num_units: int) -> UnitChange:
    return UnitChange(layer=layer, origin=Origin.renew(chosen, num_old=num_units), new=NewUnits(alpha=0.0))


def _least_used(
    rule: ContinualBackprop, units: Mapping[str, Hidden], activity: Mapping[str, Tensor], before: Mapping[str, Any]
) -> tuple[UnitReset, dict[str, Any]]:
    utility = UnitUtility(rule)
    same = [
        layer for layer, seen in before.get("age", {}).items() if layer in units and seen.shape == activity[layer].shape
    ]
    utility.load_state_dict(
        {part: {layer: before[part][layer] for layer in same} for part in ("age", "due")}
        | {"utility": {layer: before["utility"][layer] for layer in same}}
    )
    for layer, own in units.items():
        utility.observe(layer, activity[layer], outgoing_norm(own).to(activity[layer]))
    reset = utility.plan()
    utility.replaced_(reset)
    return reset, utility.state_dict()
