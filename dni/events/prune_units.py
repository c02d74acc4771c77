"""Which units of a layer go, so that it becomes smaller?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dni.cadences.blocks import Shapes
from dni.events.plan import UnitPlan
from dni.events.targets import check_amount, check_apart, check_held, check_names, held
from dni.events.view import Measure, StageView, measured
from dni.pruning.importance import score_dormancy, score_random, score_unit_norm
from dni.pruning.selection import Amount, lowest, select_lowest
from dni.structure.change import UnitChange
from dni.structure.hidden import Hidden
from dni.structure.keyed import Keyed
from dni.structure.origin import Origin

__all__ = ["PruneDormant", "PruneUnits"]


@dataclass(frozen=True, kw_only=True)
class PruneUnits:
    """Remove the units of some layers that are needed least; what stays is as it was, with its optimiser state.

    magnitude: the norm of all weights that compute a unit.
    activity: E|h|.
    taylor: E|mean of h dL/dh|, Molchanov et al. 2017 (arXiv 1611.06440).
    random: drawn.
    """

    layers: tuple[str, ...]
    """That compute the units."""
    amount: Amount
    """Of what is there when it comes to it: of each layer, or of all layers of the stage together."""
    by: Literal["magnitude", "activity", "taylor", "random"] = "magnitude"
    """What is lowest where a unit is needed least."""
    scope: Literal["layer", "stage"] = "layer"
    """What is ranked together. For "stage", scores are divided by their mean over the layer first, because their sizes
    differ from layer to layer; Molchanov et al. divide by their norm."""
    floor: int = 1
    """Units of each layer that stay at least."""

    def __post_init__(self) -> None:
        check_names(self.layers)
        check_amount(self.amount)
        _check_floor(self.floor)
        if self.by not in ("magnitude", "activity", "taylor", "random") or self.scope not in ("layer", "stage"):
            raise ValueError(
                "units are ranked by magnitude, activity, taylor or random, within a layer or a stage; got "
                f"by={self.by!r}, scope={self.scope!r}."
            )

    @property
    def name(self) -> str:
        return "prune units"

    @property
    def asks(self) -> Measure:
        return {"activity": Measure.ACTIVITY, "taylor": Measure.TAYLOR}.get(self.by, Measure.NOTHING)

    def check(self, shapes: Shapes) -> None:
        check_held(self.layers, shapes)

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> UnitPlan | None:
        units = {layer: view.units(layer) for layer in held(self.layers, view)}
        check_apart(units)
        scores = {layer: self._score(layer, own, view, keyed) for layer, own in units.items()}
        if self.scope == "stage":
            scores = {layer: score_dormancy(own) for layer, own in scores.items()}
        scope: Literal["network", "tensor"] = "network" if self.scope == "stage" else "tensor"
        goes = select_lowest(scores, self.amount, scope=scope, floor=self.floor)
        return _removal(goes, step=step, why=self.by)

    def _score(self, layer: str, units: Hidden, view: StageView, keyed: Keyed) -> Tensor:
        match self.by:
            case "activity":
                return measured(view.activity, layer, num_units=units.num_units)
            case "taylor":
                return measured(view.taylor, layer, num_units=units.num_units)
            case "random":
                return score_random({layer: torch.zeros(units.num_units, dtype=torch.float64)}, keyed)[layer]
        return score_unit_norm(units)


@dataclass(frozen=True, kw_only=True)
class PruneDormant:
    """Remove the units that are dormant, E|h_i| / mean over k of E|h_k| <= τ, however many there are.

    As they say next to nothing, the output stays about as it was. Under a LayerNorm or GroupNorm it would not, because
    a silent unit is part of the statistics of the others, so there it is refused.

    Source: Sokar et al. 2023 (ReDo, arXiv 2302.12902) for dormancy; they recycle such units, see `Recycle`.
    """

    layers: tuple[str, ...]
    """That compute the units."""
    threshold: float = 0.025
    """τ, in [0, 1)."""
    floor: int = 1
    """Units of each layer that stay at least."""

    def __post_init__(self) -> None:
        check_names(self.layers)
        _check_floor(self.floor)
        if not 0.0 <= self.threshold < 1.0:
            raise ValueError(
                f"the threshold of dormancy must lie in [0, 1), got {self.threshold}; 1 is the mean of a layer."
            )

    @property
    def name(self) -> str:
        return "prune dormant"

    @property
    def asks(self) -> Measure:
        return Measure.ACTIVITY

    def check(self, shapes: Shapes) -> None:
        check_held(self.layers, shapes)

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> UnitPlan | None:
        units = {layer: view.units(layer) for layer in held(self.layers, view)}
        check_apart(units)
        goes = {}
        for layer, own in units.items():
            if own.num_units > 1:  # whichever are dormant: what is refused is refused the first time
                own.check_kept(Origin.keep(range(1, own.num_units), num_old=own.num_units))
            dormancy = score_dormancy(measured(view.activity, layer, num_units=own.num_units))
            num_dormant = int((dormancy <= self.threshold).sum())
            goes[layer] = lowest(dormancy, max(0, min(num_dormant, own.num_units - self.floor)))
        return _removal(goes, step=step, why="dormant")


def _removal(goes: Mapping[str, Tensor], *, step: int, why: str) -> UnitPlan | None:
    changes, parts = [], []
    for layer, gone in goes.items():
        if count := int(gone.sum()):
            stays = (~gone).nonzero().flatten().tolist()
            changes.append(UnitChange(layer=layer, origin=Origin.keep(stays, num_old=len(gone))))
            parts.append(f"{count} of {len(gone)} units of {layer}")
    if not changes:
        return None
    return UnitPlan(summary=f"prune {', '.join(parts)} ({why})", step=step, changes=tuple(changes))


def _check_floor(floor: int) -> None:
    if floor < 1:
        raise ValueError(f"at least 1 unit of a layer must stay, got a floor of {floor}: a layer pruned to nothing.")
