"""Which parameters have moved far from where they began, in which layers do they sit, and what if they go back?

After training most parameters are *lazy*, close to their initial values, and a few are *active*. A set of them is a
mask for each parameter tensor, so that sets can be compared, located and reset alike.
Source: Li & Banerjee 2021 (arXiv 2102.13522), abstract. Differs: what of the paper we have does not say how far is
active, so distances in three units and a share or a threshold are on offer, and which of them was used must be said.

Parameters are given by name, `dict(module.named_parameters())`; tensors whose names agree up to the last dot are one
layer. Letters: i one number in a tensor, l a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = [
    "LayerPart",
    "Masks",
    "absolute_distance",
    "active_beyond",
    "distance_in_deviations",
    "layer_of",
    "least_active",
    "locate_by_layer",
    "most_active",
    "random_in_layers",
    "random_parameters",
    "relative_distance",
    "reset_to_initial",
]

Masks: TypeAlias = Mapping[str, Tensor]
"""A set of parameters: bool, shaped like the tensor of that name."""


@dataclass(frozen=True, kw_only=True)
class LayerPart:
    """How much of a set lies in one layer."""

    num_chosen: int
    num_parameters: int
    share: float
    """Of the set, |set and layer| / |set|: sums to 1 over the layers; 0 for an empty set."""
    density: float
    """Of the layer, |set and layer| / |layer|."""


def absolute_distance(initial: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How far each number has moved: a_i = |θ_i - θ⁰_i|.

    Args:
        initial: θ⁰ by name, floating point.
        trained: θ by name, shaped alike.

    Returns:
        a by name.

    Raises:
        ValueError: names, shapes or types do not agree.
    """
    _check_alike(initial, trained)
    return {name: (value.detach() - initial[name].detach()).abs() for name, value in trained.items()}


def relative_distance(
    initial: Mapping[str, Tensor], trained: Mapping[str, Tensor], *, epsilon: float = 1e-8
) -> dict[str, Tensor]:
    """How far each has moved for its own size: a_i = |θ_i - θ⁰_i| / (|θ⁰_i| + ε).

    What began close to 0 comes out on top, and ε says how close counts; see `absolute_distance` for the rest.
    """
    moved = absolute_distance(initial, trained)
    return {name: value / (initial[name].detach().abs() + epsilon) for name, value in moved.items()}


def distance_in_deviations(initial: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How far each has moved for its layer: a_i = |θ_i - θ⁰_i| / σ_l.

    σ_l is the standard deviation of the initial values of the layer, all its tensors together.

    Raises:
        ValueError: as `absolute_distance`; or a layer began with a single value.
    """
    moved = absolute_distance(initial, trained)
    deviation = {}
    for layer, names in _layers(moved).items():
        found = torch.cat([initial[name].detach().flatten() for name in names]).std(correction=0)
        if not found > 0:
            raise ValueError(
                f"the initial values of a layer must differ to have a deviation, found {float(found)} in layer "
                f"{layer!r}. Leave it out, or use absolute_distance or relative_distance."
            )
        deviation[layer] = found
    return {name: value / deviation[layer_of(name)] for name, value in moved.items()}


def most_active(distances: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The farthest over the whole net, round(share n) of n numbers; of equals, the first in the order of names.

    Raises:
        ValueError: the share is not one.
    """
    return _extreme(distances, share, descending=True)


def least_active(distances: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The nearest over the whole net, as many as `most_active` would take."""
    return _extreme(distances, share, descending=False)


def active_beyond(distances: Mapping[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """Those farther than `threshold`, in the unit of the distances."""
    return {name: value > threshold for name, value in distances.items()}


def random_parameters(
    parameters: Mapping[str, Tensor], share: float, *, generator: torch.Generator
) -> dict[str, Tensor]:
    """round(share n) of n numbers, drawn from the whole net without looking at them; `generator` is keyed.

    Raises:
        ValueError: the share is not one.
    """
    count = _count(parameters, share)
    total = sum(value.numel() for value in parameters.values())
    return _masks(parameters, torch.randperm(total, generator=generator)[:count])


def random_in_layers(masks: Masks, *, generator: torch.Generator) -> dict[str, Tensor]:
    """As many in every tensor as `masks` has there, drawn: what of a set's effect is due to where it lies."""
    drawn: dict[str, Tensor] = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=generator)[: int(mask.sum())]
        drawn |= _masks({name: mask}, order)
    return drawn


def locate_by_layer(masks: Masks) -> dict[str, LayerPart]:
    """Where a set lies, by layer, in the order of the names."""
    total = sum(int(mask.sum()) for mask in masks.values())
    parts = {}
    for layer, names in _layers(masks).items():
        chosen = sum(int(masks[name].sum()) for name in names)
        size = sum(masks[name].numel() for name in names)
        parts[layer] = LayerPart(
            num_chosen=chosen,
            num_parameters=size,
            share=chosen / total if total else 0.0,
            density=chosen / size,
        )
    return parts


def reset_to_initial(state: Mapping[str, Tensor], initial: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    """Put a set back to its own initial values: θ'_i = θ⁰_i in the set, θ_i elsewhere.

    Args:
        state: θ by name; it may hold more (buffers), which is passed on.
        initial: θ⁰ of what `masks` names.
        masks: the set.

    Returns:
        θ', new tensors where `masks` has one.

    Raises:
        ValueError: a mask has no parameter of its name and shape.
    """
    for name, mask in masks.items():
        for held, values in (("state", state), ("initial values", initial)):
            if name not in values or values[name].shape != mask.shape:
                found = tuple(values[name].shape) if name in values else f"only {', '.join(values)}"
                raise ValueError(
                    f"the mask of {name}, {tuple(mask.shape)}, must have its equal in the {held}: {found}."
                )
    back = {name: torch.where(mask, initial[name], state[name]).detach() for name, mask in masks.items()}
    return {name: back.get(name, value) for name, value in state.items()}


def layer_of(name: str) -> str:
    """The layer of a parameter: `2.weight` and `2.bias` are of layer `2`."""
    return name.rpartition(".")[0]


def _extreme(distances: Mapping[str, Tensor], share: float, *, descending: bool) -> dict[str, Tensor]:
    count = _count(distances, share)
    flat = torch.cat([value.flatten() for value in distances.values()])
    return _masks(distances, flat.sort(descending=descending, stable=True).indices[:count])


def _count(parameters: Mapping[str, Tensor], share: float) -> int:
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"the share of the parameters must lie in [0, 1], got {share}.")
    return round(share * sum(value.numel() for value in parameters.values()))


def _masks(parameters: Mapping[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
    """Masks from positions in all tensors laid end to end."""
    sizes = [value.numel() for value in parameters.values()]
    flat = torch.zeros(sum(sizes), dtype=torch.bool)
    flat[chosen.cpu()] = True
    parts = torch.split(flat, sizes)
    return {
        name: part.view(value.shape).to(value.device)
        for (name, value), part in zip(parameters.items(), parts, strict=True)
    }


def _layers(names: Iterable[str]) -> dict[str, list[str]]:
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(layer_of(name), []).append(name)
    return layers


def _check_alike(initial: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
    if initial.keys() != trained.keys():
        apart = sorted(initial.keys() ^ trained.keys())
        raise ValueError(f"initial and trained values must have the same names; only one of them has {apart}.")
    for name, value in trained.items():
        first = initial[name]
        if first.shape != value.shape or not (first.is_floating_point() and value.is_floating_point()):
            raise ValueError(
                f"{name} must be floating point of one shape before and after, got {first.dtype} {tuple(first.shape)} "
                f"and {value.dtype} {tuple(value.shape)}. Give parameters, not counters."
            )
