"""Which single parameters have moved farthest from where they began, and begin again?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dni.cadences.blocks import Shapes
from dni.events.plan import TensorPlan
from dni.events.targets import check_amount, check_held, check_names, kept_places
from dni.events.view import Measure, StageView
from dni.measures.active import absolute_distance, layer_of
from dni.pruning.selection import Amount, lowest
from dni.structure.change import TensorChange
from dni.structure.keyed import Keyed

__all__ = ["ResetActive"]


@dataclass(frozen=True, kw_only=True)
class ResetActive:
    """Put the parameters that are farthest from their initial values, |θ_i - θ⁰_i|, back to them, or to fresh ones.

    All parameters that learn count, biases and norms among them, but not what a mask has pruned. For what θ⁰ is of
    units that have grown, of attached parts and of layers that were reset, see `StageView.initial`; what is put to a
    fresh value is measured from there on. Of equals, the first by name and place.

    Source: Li & Banerjee 2021 (arXiv 2102.13522), who call these parameters active and put them back to their own
    initial values, not to fresh draws; networks then generalise worse. Differs: their abstract, which is what we have,
    names no amount, and resets nothing in the middle of training.
    """

    amount: Amount
    """Of those that learn: of all of them in the stage together, or of each tensor."""
    layers: tuple[str, ...] | None = None
    """Modules, with all that is within them; None: all of them."""
    to: Literal["initial", "fresh"] = "initial"
    """Their own initial values, or new draws, as their layers' kinds are drawn."""
    scope: Literal["stage", "tensor"] = "stage"
    """What is ranked together."""
    memory: Literal["keep", "zero moments"] = "zero moments"
    """What becomes of the optimiser's state of these entries; that of the others goes on, and so does the count that
    they all share, see `Memory`."""

    def __post_init__(self) -> None:
        check_names(self.layers)
        check_amount(self.amount)
        if self.to not in ("initial", "fresh") or self.scope not in ("stage", "tensor"):
            raise ValueError(
                "parameters are reset to initial or fresh values, and ranked within a stage or a tensor; got "
                f"to={self.to!r}, scope={self.scope!r}."
            )
        if self.memory not in ("keep", "zero moments"):
            raise ValueError(
                "of single entries an optimiser may keep its moments or zero them, because a tensor has one count of "
                f"its updates; got {self.memory!r}. Reset whole layers (ResetLayers) to begin the count anew."
            )

    @property
    def name(self) -> str:
        return "reset active"

    @property
    def asks(self) -> Measure:
        return Measure.INITIAL

    def check(self, shapes: Shapes) -> None:
        check_held(self.layers, shapes)

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> TensorPlan | None:
        initial = {name: value for name, value in view.initial.items() if self._means(name)}
        own = {name: view.parameters[name].detach() for name in initial}
        places = {name: kept_places(view, name, value) for name, value in own.items()}
        moved = {name: far.flatten()[places[name]] for name, far in absolute_distance(initial, own).items()}
        farthest = self._farthest(moved)
        values = initial if self.to == "initial" else _fresh(own, view, keyed)
        tensors = {}
        for name, chosen in farthest.items():
            if bool(chosen.any()):
                anew = torch.zeros_like(own[name], dtype=torch.bool)
                anew.view(-1)[places[name][chosen]] = True
                value = torch.where(anew, values[name].to(own[name]), own[name])
                tensors[name] = TensorChange(value=value, memory=self.memory, anew=anew)
        if not tensors:
            return None
        count, total = (sum(int(chosen.sum()) for chosen in farthest.values()), sum(map(len, moved.values())))
        what = f"the {count} of {total} parameters that have moved farthest, in {len(tensors)} tensors"
        return TensorPlan(summary=f"reset {what}, to {self.to} values", step=step, tensors=tensors)

    def _means(self, name: str) -> bool:
        return self.layers is None or any(name.startswith(f"{layer}.") for layer in self.layers)

    def _farthest(self, moved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Which they are, by name, bool."""
        groups = [[name] for name in moved] if self.scope == "tensor" else [list(moved)] if moved else []
        chosen: dict[str, Tensor] = {}
        for names in groups:
            flat = torch.cat([moved[name] for name in names])
            count = self.amount.of(len(flat))
            if count > len(flat):
                raise ValueError(
                    f"{count} parameters cannot be reset of {', '.join(names)}: {len(flat)} learn there. Lower the "
                    f"amount ({self.amount}), or rank more tensors together."
                )
            if not torch.isfinite(flat).all():
                raise ValueError(
                    f"parameters must be finite to be ranked, found NaN or infinity in {', '.join(names)}."
                )
            parts = torch.split(lowest(-flat, count), [len(moved[name]) for name in names])
            chosen |= dict(zip(names, parts, strict=True))
        return chosen


def _fresh(own: Mapping[str, Tensor], view: StageView, keyed: Keyed) -> dict[str, Tensor]:
    """New draws of these parameters."""
    layers = dict.fromkeys(map(layer_of, own))
    return {name: value for layer in layers for name, value in view.fresh(layer, keyed).items()}
