"""How does a hidden layer get units that it did not have?

New units are put behind the old ones, with outgoing weights scaled by one alpha common to all of them: 0 leaves the
function as it is; a small one is the phase-in by initial scale. (The phase-in by a gate is `GatedComponent`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt

import torch
from torch import Tensor

from dni.structure.hidden import Hidden, Resized, UnitTensor
from dni.structure.origin import Origin

__all__ = ["append_units", "grow"]


def grow(hidden: Hidden, count: int, *, generator: torch.Generator, alpha: float = 0.0) -> Resized:
    """Append random units, with outgoing weights alpha V0.

    Incoming weights, biases and V0 are drawn as torch's layers begin, within 1/sqrt(fan-in) of 0. At alpha = 0 the
    function is unchanged and the outgoing weights learn first, dL/dV = delta s(Uh)^T: the incoming ones see
    dL/dU in proportion to V.

    Args:
        hidden: the layer.
        count: number of new units.
        generator: draws them; keyed by seed and event, so that replicas agree.
        alpha: initial scale of what they add.

    Raises:
        ValueError: the count is negative, alpha is not in [0, 1], or a LayerNorm would let new units change the old.
    """
    fresh = {name: _drawn(own, count, generator) for name, own in hidden.sides("producer").items() if own.bound}
    for name, own in hidden.sides("consumer").items():
        fan_in = prod(own.shape_of(hidden.num_units + count)[1:])
        drawn = _uniform(own.shape_of(count), generator).to(own.tensor)
        fresh[name] = drawn * (1 / sqrt(fan_in))
    return append_units(hidden, count, fresh, alpha=alpha)


def append_units(hidden: Hidden, count: int, fresh: Mapping[str, Tensor], *, alpha: float = 1.0) -> Resized:
    """Append given units: a trained component whose gate is folded into its outgoing weights, for one.

    Args:
        hidden: the layer.
        count: number of new units.
        fresh: their values by tensor, of the tensor's shape with `count` units. Norms that are left out begin as new
            ones do.
        alpha: what their outgoing weights are multiplied by.

    Raises:
        ValueError: a tensor is missing, unknown or of another shape, alpha is not in [0, 1], or a LayerNorm would let
            new units change the old.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha, the scale of what new units add, must lie in [0, 1], got {alpha}.")
    if hidden.mixes_units:
        raise ValueError(
            "LayerNorm takes its statistics over all units, so new ones change the old even with outgoing weights of "
            "0. Copy every unit (widen), or grow a layer without LayerNorm."
        )
    needed = {name for name, own in hidden.tensors.items() if own.bound or own.side == "consumer"}
    if fresh.keys() - hidden.tensors.keys() or needed - fresh.keys():
        raise ValueError(
            f"new units need values of {', '.join(sorted(needed))}, and may have those of {', '.join(hidden.tensors)}; "
            f"got {', '.join(sorted(fresh)) or 'none'}."
        )
    origin = Origin.append(count, num_old=hidden.num_units)
    changes = {name: own.change(origin) for name, own in hidden.tensors.items()}
    tensors = {}
    for name, own in hidden.tensors.items():
        fill: float | Tensor = own.fresh
        if name in fresh:
            fill = fresh[name].detach() * (alpha if own.side == "consumer" else 1.0)
        tensors[name] = changes[name].origin.apply(own.tensor, own.axis, fill)
    return Resized(tensors=tensors, origin=origin, changes=changes)


def _drawn(own: UnitTensor, count: int, generator: torch.Generator) -> Tensor:
    return own.fresh + _uniform(own.shape_of(count), generator).to(own.tensor) * own.bound


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """In [-1, 1), drawn on the CPU in float64: the same on every device and for every precision."""
    return 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
