"""How is part of a network begun anew, and what becomes of what the optimiser knew about it?

Numbers: a set of them (a mask by name) takes over other values (fresh ones, the ones it began with, 0), and the
optimiser's state of the same set is treated as `Memory` says, whose measured consequences stand there. Units: those
that begin anew are units that were not there, in the places of old ones (`UnitReset.origin` and `change_units`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dni.measures.active import Masks, reset_to_initial
from dni.structure.hidden import Hidden
from dni.structure.optimizer_state import Memory
from dni.structure.origin import Origin
from dni.structure.slots import forget_

__all__ = ["ReDo", "UnitReset", "overwrite_", "whole_layers", "zero_biases"]


@dataclass(frozen=True, kw_only=True)
class UnitReset:
    """A plan: which units of which layers begin anew."""

    rule: str
    """Who planned it."""
    units: Mapping[str, tuple[int, ...]]
    """By layer, ascending."""

    def origin(self, layer: str, *, num_units: int) -> Origin:
        """What becomes of the units of a layer: as many as there were, some of them new.

        Raises:
            ValueError: there is no such unit.
        """
        return Origin.renew(self.units.get(layer, ()), num_old=num_units)

    def __str__(self) -> str:
        parts = [f"{layer}: {', '.join(map(str, units))}" for layer, units in self.units.items() if units]
        return f"{self.rule} recycles {'; '.join(parts) or 'no unit'}"


@dataclass(frozen=True, kw_only=True)
class ReDo:
    """Recycle units that are dormant: s_i = E|h_i| / mean over k of E|h_k| <= τ.

    Source: Sokar et al. 2023 (arXiv 2302.12902), algorithm 1; every 1,000 steps, with τ 0.025 or 0.1. Their code
    zeroes the moments and lets Adam's count of steps go on.
    """

    threshold: float = 0.025
    """τ, at least 0."""

    def __post_init__(self) -> None:
        if not self.threshold >= 0.0:
            raise ValueError(f"the threshold of dormancy must be at least 0, got {self.threshold}.")

    def plan(self, dormancy: Mapping[str, Tensor]) -> UnitReset:
        """The dormant units, from `score_dormancy` of each layer, (U,)."""
        units = {
            layer: tuple((score <= self.threshold).nonzero().flatten().tolist()) for layer, score in dormancy.items()
        }
        return UnitReset(rule=repr(self), units=units)


def overwrite_(
    parameters: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    masks: Masks,
    *,
    optimizer: torch.optim.Optimizer | None,
    memory: Memory,
) -> None:
    """Give a set of numbers other values, and leave the rest: θ_i ← v_i in the set.

    Args:
        parameters: θ by name, changed in place; parameters or buffers.
        values: v by name, as `fresh_values` gives them, or a copy of the initial state.
        masks: the set, bool by name.
        optimizer: whose state is treated alike; None: there is none.
        memory: what becomes of its state.

    Raises:
        ValueError: a mask has no parameter, or no value, of its name and shape. Nothing is changed then.
    """
    new = reset_to_initial({name: parameters[name].detach() for name in masks if name in parameters}, values, masks)
    with torch.no_grad():
        for name, mask in masks.items():
            if optimizer is not None:
                forget_(optimizer, parameters[name], mask, memory)
            parameters[name].copy_(new[name])


def whole_layers(parameters: Mapping[str, Tensor], layers: Iterable[str]) -> dict[str, Tensor]:
    """Everything in some layers, or in modules that hold them, as a set: `2` is `2.weight`, `2.bias`, `2.1.weight`.

    Raises:
        ValueError: a layer has no parameters, or there is no such layer.
    """
    masks: dict[str, Tensor] = {}
    for layer in layers:
        own = [name for name in parameters if name.startswith(f"{layer}.")]
        if not own:
            raise ValueError(f"there is no layer {layer!r} with parameters; there are {', '.join(parameters)}.")
        masks |= {name: torch.ones_like(parameters[name], dtype=torch.bool) for name in own}
    return masks


def zero_biases(hidden: Hidden, count: int) -> dict[str, Tensor]:
    """Biases of 0 for new units, by tensor, to be given to `change_units`: so ReDo and continual backprop begin them.

    With them, and alpha 0, a unit begins anew without changing what the others do: fresh weights in, bias 0, weights
    out 0; norms over it begin anew too, with their running statistics, and the biases of readers stay. If it was
    silent, the output of the network stays as it was.    Source: Sokar et al. 2023 (arXiv 2302.12902), algorithm 1;
    Dohare et al. 2024 (continual backprop), algorithm 1. Differs: weights in are drawn as torch draws the layer's.
    """
    biases = {name: own for name, own in hidden.sides("producer") if own.bound and own.tensor.dim() == 1}
    return {name: torch.zeros(own.shape_of(count)).to(own.tensor) for name, own in biases.items()}
