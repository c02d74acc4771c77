"""How is part of a network begun anew, and what becomes of what the optimiser knew about it?

All of it is one thing: a set of numbers (a mask by name) takes over other values (fresh ones, the ones it began with,
0), and the optimiser's state of the same set is treated as `Memory` says, whose measured consequences stand there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dni.measures.active import Masks, reset_to_initial
from dni.pruning.units import UnitPlace
from dni.resets.fresh import fresh_values
from dni.structure.forgetting import forget_
from dni.structure.keyed import Keyed
from dni.structure.optimizer_state import Memory

__all__ = ["ReDo", "UnitReset", "overwrite_", "recycle_units_", "whole_layers"]


@dataclass(frozen=True, kw_only=True)
class UnitReset:
    """A plan: which units of which layers begin anew."""

    rule: str
    """Who planned it."""
    units: Mapping[str, tuple[int, ...]]
    """By layer, ascending."""

    def __str__(self) -> str:
        parts = [f"{layer}: {', '.join(map(str, units))}" for layer, units in self.units.items() if units]
        return f"{self.rule} recycles {'; '.join(parts) or 'no unit'}"


@dataclass(frozen=True, kw_only=True)
class ReDo:
    """Recycle units that are dormant: s_i = E|h_i| / mean over k of E|h_k| <= τ.

    Source: Sokar et al. 2023 (arXiv 2302.12902), algorithm 1; every 1,000 steps, with τ 0.025 or 0.1. `recycle_units_`
    applies it, with "zero moments" as in their code.
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


def recycle_units_(
    module: nn.Module,
    places: Sequence[UnitPlace],
    plan: UnitReset,
    *,
    keyed: Keyed,
    optimizer: torch.optim.Optimizer | None,
    memory: Memory = "zero moments",
) -> None:
    """Begin units anew without changing what the others do: fresh weights in, bias 0, weights out 0.

    If a unit was silent, the output of the network stays as it was. Normalisations over it begin anew too, with their
    running statistics; the biases of readers stay.    Source: Sokar et al. 2023 (arXiv 2302.12902), algorithm 1; Dohare
    et al. 2024 (continual backprop), algorithm 1. Differs: weights in are drawn as PyTorch draws the layer's; where two
    recycled units meet in one weight, it is 0.

    Args:
        module: the network, or the stage that holds the layers and all their readers.
        places: of the layers in the plan, and of others if need be.
        plan: the units.
        keyed: a generator for each layer's name.
        optimizer: of the parameters; None: there is none.
        memory: what becomes of its state of all that is changed: weights in and out, biases, normalisations.

    Raises:
        ValueError: a layer of the plan has no place, or a place does not fit the module. Nothing is changed then.
    """
    by_layer = {place.layer: place for place in places}
    made: dict[str, Tensor] = {}
    read: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}
    for layer, units in plan.units.items():
        if layer not in by_layer:
            raise ValueError(
                f"units of {layer!r} are to be recycled, but only of {', '.join(by_layer)} is the place known."
            )
        place = by_layer[layer]
        _join(made, place.made_by(module, units))
        _join(read, place.read_by(module, units))
        for name in (layer, *place.norms):
            own = fresh_values(module.get_submodule(name), lambda _, name=name: keyed(name))  # type: ignore[misc]
            values |= {f"{name}.{key}": value for key, value in own.items()}
        if f"{layer}.bias" in values:
            values[f"{layer}.bias"].zero_()
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    overwrite_(state, values, made, optimizer=optimizer, memory=memory)
    zeros = {name: torch.zeros_like(state[name]) for name in read}
    overwrite_(state, zeros, read, optimizer=optimizer, memory=memory)


def _join(masks: dict[str, Tensor], more: Masks) -> None:
    for name, mask in more.items():
        masks[name] = masks[name] | mask if name in masks else mask
