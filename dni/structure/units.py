"""What becomes of the tensors of some units when units are removed, copied, added or begin anew?

Old units keep what they are: those that compute an axis are copied, those that read it are shared out among copies. A
new unit begins as the layers of torch begin where it is computed, and is read by weights that are scaled by alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt
from types import MappingProxyType

import torch
from torch import Tensor

from dni.structure.change import NewUnits, TensorChange
from dni.structure.followers import AxisChange, map_tensor
from dni.structure.hidden import Hidden
from dni.structure.keyed import Keyed
from dni.structure.origin import NEW, Origin, along
from dni.structure.unit_axis import UnitTensor

__all__ = ["change_units"]


def change_units(
    hidden: Hidden,
    origin: Origin,
    new: NewUnits,
    *,
    keyed: Keyed,
    given: Mapping[str, Tensor] = MappingProxyType({}),
) -> dict[str, TensorChange]:
    """Change the units of a layer, as far as they lie in these tensors.

    Where a stage computes units and the one above reads them, both call this with one origin and the same `new`: what
    a tensor becomes depends on nothing but itself.

    Where they are computed, new units are drawn from U(-b, b), b = 1 / sqrt(fan-in), weights and biases, as torch's
    layers begin; norms and their statistics are those of a new norm. What reads them is alpha U(-b, b). At alpha = 0
    the function is unchanged and the outgoing weights learn first, dL/dV = delta s(Uh)^T: the incoming ones see dL/dU
    in proportion to V. In a weight that does both, what reads a new unit is scaled by alpha there too.

    Copies share: W'[j] = W[s(j)], V'[:, j] = V[:, s(j)] / n(j), n the number of copies.    Source: Chen et al. 2015
    (arXiv 1511.05641), Net2WiderNet. Differs: `new.noise` is added to the outgoing weights and adds up to 0 over the
    copies of a unit, so it breaks their symmetry (their incoming gradients differ at once) and keeps the function.

    Args:
        hidden: the units. Its tensors are left as they are.
        origin: of the units; one whose source is `NEW` was not there, or begins anew in its place.
        new: how they begin. Its ramp is not looked at here.
        keyed: a generator for each tensor, by the names of `hidden`; where those are names within a stage, give one
            that makes them global.
        given: values of the new units instead, by tensor, (as its shape, of these units alone); not scaled by alpha.

    Returns:
        What becomes of each tensor.

    Raises:
        ValueError: the origin is of other units, or uneven under a GroupNorm; a value is of no tensor, or of another
            shape, or of one that has the units along two axes.
    """
    axes = hidden.axes(origin)
    _check_given(hidden, origin, given)
    changes = {}
    for name, parts in hidden.tensors.items():
        value = map_tensor(parts[0].tensor, axes[name], "value")
        if origin.fresh or origin.is_scaled:
            generator = keyed(name)
            # What computes comes first, so that what reads has the last word where both meet.
            for own, change in sorted(zip(parts, axes[name], strict=True), key=lambda pair: pair[0].side == "consumer"):
                _begin_(value, own, change, new, generator=generator, given=given.get(name))
        changes[name] = TensorChange(axes=axes[name], value=value)
    return changes


def _begin_(
    value: Tensor,
    own: UnitTensor,
    change: AxisChange,
    new: NewUnits,
    *,
    generator: torch.Generator,
    given: Tensor | None,
) -> None:
    """Put in the values of new units along one axis, and what tells copies apart."""
    fresh = change.origin.fresh
    if fresh:
        shape = (*value.shape[: change.axis], len(fresh), *value.shape[change.axis + 1 :])
        bound = own.bound if own.side == "producer" else new.alpha / sqrt(prod(value.shape[1:]))
        drawn = own.fresh + bound * (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1)
        values = (drawn if given is None else given.detach()).to(value)
        value.index_copy_(change.axis, torch.tensor(fresh, device=value.device), values)
    if own.side == "consumer" and new.noise and change.origin.is_scaled:
        size = new.noise * float(own.tensor.std(correction=0))
        value += _cancelling(value, change, size, generator)


def _cancelling(weight: Tensor, change: AxisChange, size: float, generator: torch.Generator) -> Tensor:
    """Noise that adds up to 0 over the copies of each entry along the axis; 0 for what has no other copy."""
    origin, axis = change.origin, change.axis
    noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight) * size
    sources = torch.tensor([origin.num_old if source == NEW else source for source in origin.sources])
    counts = torch.bincount(sources, minlength=origin.num_old + 1).clamp(min=1).to(weight)
    sources = sources.to(weight.device)
    shape = (*weight.shape[:axis], origin.num_old + 1, *weight.shape[axis + 1 :])
    sums = torch.zeros(shape, dtype=weight.dtype, device=weight.device).index_add(axis, sources, noise)
    means = (sums / along(counts, axis, num_axes=weight.dim())).index_select(axis, sources)
    old = torch.tensor([source != NEW for source in origin.sources], device=weight.device)
    return torch.where(along(old, axis, num_axes=weight.dim()), noise - means, torch.zeros_like(noise))


def _check_given(hidden: Hidden, origin: Origin, given: Mapping[str, Tensor]) -> None:
    for name, value in given.items():
        parts = hidden.tensors.get(name, ())
        if len(parts) != 1:
            raise ValueError(
                f"values of new units may be given of tensors that have them along one axis, "
                f"{', '.join(own for own, parts in hidden.tensors.items() if len(parts) == 1)}; got {name}."
            )
        needed = parts[0].shape_of(len(origin.fresh))
        if value.shape != needed:
            raise ValueError(
                f"the {len(origin.fresh)} new units must have values of {needed} in {name}, got {tuple(value.shape)}."
            )
