"""Which tensors of a layer have units along an axis, and how does a new unit begin there?

    the layer               tensors                      axis    side        new entries
    computes units          weight, bias                 0       producer    as torch's layers begin
    passes them one by one  weight, bias, running        0       producer    as torch's layers begin
    reads them              weight                       1       consumer    see `change_units`
                            unit_gate (a buffer)         0       producer    1

A depthwise convolution computes one unit from one unit, so it has only what it computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod, sqrt
from types import MappingProxyType

from torch import Tensor, nn

from dni.structure.unit_axis import UnitAxis, UnitTensor

__all__ = [
    "BATCH_NORMS",
    "CONVOLUTIONS",
    "GATE",
    "PASSING",
    "WEIGHTED",
    "LayerUnits",
    "check_kind",
    "computed_by",
    "is_depthwise",
    "passed_by",
    "read_by",
    "width_of",
]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHTED = (nn.Linear, *CONVOLUTIONS)
"""They compute units and read others."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
PASSING = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.PReLU)
"""They have numbers of their own for each unit."""
_FRESH: Mapping[str, float] = MappingProxyType({"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0})
"""What the norms of torch begin with."""
GATE = "unit_gate"
"""A buffer of a layer that reads units: what each entry of the axis is multiplied by before it is read, (I,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerUnits:
    """What a layer holds of some units."""

    tensors: Mapping[str, UnitTensor] = field(default_factory=dict)
    """By name."""
    mixes_units: bool = False
    """Whether it takes statistics over units, so that a new one changes the others."""
    groups: int = 1
    """Equal runs of neighbouring units over which it does; each has to keep its own."""


def is_depthwise(layer: nn.Module) -> bool:
    """Whether it is a convolution that computes each channel from one channel."""
    return isinstance(layer, CONVOLUTIONS) and 1 < layer.groups == layer.in_channels == layer.out_channels


def check_kind(name: str, layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """Refuse a layer whose tensors are not known.

    Raises:
        TypeError: it is none of these kinds, or has parameters of its own beside theirs.
        ValueError: it is a convolution of groups of several channels.
    """
    held = {own: tuple(value.shape) for own, value in layer._parameters.items() if value is not None}
    lacks_weight = isinstance(layer, WEIGHTED) and "weight" not in held
    if not isinstance(layer, kinds) or held.keys() - {"weight", "bias"} or lacks_weight:
        raise TypeError(
            f"{name} must be one of {', '.join(kind.__name__ for kind in kinds)}, with no parameters but weight and "
            f"bias, for its units to change; it is a {type(layer).__name__} with "
            f"{', '.join(f'{own} {shape}' for own, shape in held.items()) or 'no parameters of its own'}. Choose "
            "another layer, or write this one with Linear layers and give its module a method coupled_units()."
        )
    if isinstance(layer, CONVOLUTIONS) and layer.groups != 1 and not is_depthwise(layer):
        raise ValueError(
            f"{name} has {layer.groups} groups of {layer.in_channels // layer.groups} channels each, from "
            f"{layer.in_channels} to {layer.out_channels}; a unit belongs to one of them, so those of a grouped "
            "convolution cannot change by themselves. Choose a layer with groups=1, or one group per channel."
        )


def width_of(layer: nn.Module, *, axis: int) -> int | None:
    """Entries of what it computes or passes (axis 0) or reads (axis 1); None if it does not say."""
    if isinstance(layer, WEIGHTED):
        groups = layer.groups if axis and isinstance(layer, CONVOLUTIONS) else 1
        return int(layer.weight.shape[axis]) * groups
    if isinstance(layer, BATCH_NORMS):
        return int(layer.num_features)
    if isinstance(layer, nn.LayerNorm):
        return int(layer.normalized_shape[0])
    if isinstance(layer, nn.GroupNorm):
        return int(layer.num_channels)
    return int(layer.num_parameters) if isinstance(layer, nn.PReLU) else None


def computed_by(name: str, layer: nn.Module, at: UnitAxis) -> LayerUnits:
    """What a layer holds that computes units; at: along its output. Raises as `check_kind`."""
    check_kind(name, layer, WEIGHTED)
    weight = _tensor(layer, "weight")
    bound = 1 / sqrt(prod(weight.shape[1:]))  # as the layers of torch begin
    held = {own: value.detach() for own, value in layer._parameters.items() if value is not None}
    tensors = {
        f"{name}.{own}": UnitTensor(tensor=value, at=replace(at, axis=0), side="producer", bound=bound)
        for own, value in held.items()
    }
    return LayerUnits(tensors=tensors)


def read_by(name: str, layer: nn.Module, at: UnitAxis) -> LayerUnits:
    """What a layer holds that reads units; at: along its input.

    Raises:
        ValueError: as `check_kind`, or it is depthwise, or its gate does not fit.
    """
    check_kind(name, layer, WEIGHTED)
    if is_depthwise(layer):
        raise ValueError(f"{name} is depthwise, so it passes units on and reads none. Name it as a producer.")
    weight = _tensor(layer, "weight")
    tensors = {f"{name}.weight": UnitTensor(tensor=weight, at=replace(at, axis=1), side="consumer")}
    if (gate := layer._buffers.get(GATE)) is not None:
        if gate.shape != weight.shape[1:2]:
            raise ValueError(
                f"{name}.{GATE} must have one number for each of the {weight.shape[1]} entries that {name} reads, got "
                f"{tuple(gate.shape)}."
            )
        # It is copied, not shared out: the weight behind it is.
        own = UnitTensor(tensor=gate.detach(), at=replace(at, axis=0), side="producer", fresh=1.0)
        tensors[f"{name}.{GATE}"] = own
    return LayerUnits(tensors=tensors)


def passed_by(name: str, layer: nn.Module, at: UnitAxis, *, num_units: int) -> LayerUnits:
    """What a layer holds that passes units one by one; at: along what it passes.

    Raises:
        ValueError: it is a GroupNorm one of whose groups would be of other units too, or would be part of one unit;
            or a LayerNorm without a weight, which could not follow.
        TypeError: as `check_kind`.
    """
    check_kind(name, layer, PASSING)
    if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
        return LayerUnits()
    if isinstance(layer, nn.LayerNorm) and not layer.elementwise_affine:
        raise ValueError(
            f"{name} normalises {layer.normalized_shape} and has no weight to follow its {num_units} units. Give it "
            "elementwise_affine=True, or choose another layer."
        )
    groups = 1
    if isinstance(layer, nn.GroupNorm):
        groups = layer.num_groups
        if at.offsets != (0,) or at.block * num_units != layer.num_channels or num_units % groups:
            raise ValueError(
                f"{name} must normalise whole units, equally many in each of its {groups} groups, and nothing else; it "
                f"has {layer.num_channels} channels for {num_units} units of {at.block}, which begin at {at.offsets}. "
                "Choose another layer, or another number of groups."
            )
    fresh = {"weight": 0.25} if isinstance(layer, nn.PReLU) else _FRESH
    held = {**layer._parameters, **layer._buffers}
    tensors = {
        f"{name}.{own}": UnitTensor(tensor=value.detach(), at=replace(at, axis=0), side="producer", fresh=fresh[own])
        for own, value in held.items()
        if own in fresh and value is not None
    }
    return LayerUnits(tensors=tensors, mixes_units=isinstance(layer, nn.LayerNorm | nn.GroupNorm), groups=groups)


def _tensor(layer: nn.Module, name: str) -> Tensor:
    own = layer._parameters[name]
    assert own is not None
    return own.detach()
