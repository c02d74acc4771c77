"""Which layers take over other values, and keep their shape?

Where masks are held, new values are 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from dni.cadences.blocks import Shapes
from dni.events.plan import TensorPlan
from dni.events.targets import check_held, check_names, held, kept_values, weights
from dni.events.view import Measure, StageView
from dni.resets.perturbations import Electroshock, ShrinkAndPerturb
from dni.structure.change import TensorChange
from dni.structure.keyed import Keyed
from dni.structure.optimizer_state import Memory

__all__ = ["ResetLayers", "Shock", "ShrinkPerturb"]


@dataclass(frozen=True, kw_only=True)
class ResetLayers:
    """Begin some layers anew: parameters and running statistics, drawn as their kinds are.

    Source: Nikishin et al. 2022 (primacy bias, arXiv 2205.07802), who reset the last layers with their optimiser state.
    """

    layers: tuple[str, ...]
    """Modules; all that is within them begins anew."""
    memory: Memory = "zero moments and step"
    """What becomes of the optimiser's state. The default begins it anew too: exact for whole tensors."""

    def __post_init__(self) -> None:
        check_names(self.layers)

    @property
    def name(self) -> str:
        return "reset layers"

    @property
    def asks(self) -> Measure:
        return Measure.NOTHING

    def check(self, shapes: Shapes) -> None:
        check_held(self.layers, shapes)

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> TensorPlan | None:
        own = held(self.layers, view)
        values = {name: value for layer in own for name, value in view.fresh(layer, keyed).items()}
        anew = {name: torch.ones_like(value, dtype=torch.bool) for name, value in values.items()}
        return _new_values(values, view, self.memory, step=step, what=f"reset {', '.join(own)}", anew=anew)


@dataclass(frozen=True, kw_only=True)
class Shock:
    """Shake the weights of some layers: parameters of two axes or more, so neither biases nor norms."""

    shock: Electroshock
    """Its size and noise; noise by name is by global name of the tensor."""
    layers: tuple[str, ...] | None = None
    """Whose weights; None: all of them."""
    memory: Memory = "keep"
    """What becomes of the optimiser's state. A shock is mild, so by default it goes on."""

    def __post_init__(self) -> None:
        check_names(self.layers)

    @property
    def name(self) -> str:
        return "shock"

    @property
    def asks(self) -> Measure:
        return Measure.NOTHING

    def check(self, shapes: Shapes) -> None:
        check_held(self.layers, shapes, num_axes=2)

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> TensorPlan | None:
        values = self.shock.values(weights(self.layers, view), keyed)
        return _new_values(
            values, view, self.memory, step=step, what=f"shock of size {self.shock.size:g} to the weights"
        )


@dataclass(frozen=True, kw_only=True)
class ShrinkPerturb:
    """Shrink all parameters of some layers, and add a little of a fresh initialisation. Running statistics stay."""

    rule: ShrinkAndPerturb
    """By how much."""
    layers: tuple[str, ...] | None = None
    """Modules; None: all of them."""
    memory: Memory = "zero moments and step"
    """What becomes of the optimiser's state. Ash & Adams train on with a new optimiser, which is the default."""

    def __post_init__(self) -> None:
        check_names(self.layers)

    @property
    def name(self) -> str:
        return "shrink and perturb"

    @property
    def asks(self) -> Measure:
        return Measure.NOTHING

    def check(self, shapes: Shapes) -> None:
        check_held(self.layers, shapes)

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> TensorPlan | None:
        owners = dict.fromkeys(name.rpartition(".")[0] for name in view.parameters)
        layers = list(owners) if self.layers is None else held(self.layers, view)
        fresh = {name: value for layer in layers for name, value in view.fresh(layer, keyed).items()}
        values = self.rule.values({name: value for name, value in view.parameters.items() if name in fresh}, fresh)
        what = f"shrink to {self.rule.shrink:g} and perturb by {self.rule.perturb:g}"
        return _new_values(values, view, self.memory, step=step, what=what)


def _new_values(
    values: Mapping[str, Tensor],
    view: StageView,
    memory: Memory,
    *,
    step: int,
    what: str,
    anew: Mapping[str, Tensor] = MappingProxyType({}),
) -> TensorPlan | None:
    if not values:
        return None
    count = sum(value.numel() for value in values.values())
    tensors = {
        name: TensorChange(value=value, memory=memory, anew=anew.get(name))
        for name, value in kept_values(view, values).items()
    }
    return TensorPlan(summary=f"{what} ({count} numbers in {len(tensors)} tensors)", step=step, tensors=tensors)
