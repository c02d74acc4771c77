"""What do the tensors that follow a layer's units say of them?

All that actions know of `Units.tensors` is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from dni.events.view import Units
from dni.growth.gradmax import grow_gradmax
from dni.pruning.importance import score_unit_norm
from dni.structure.followers import Side
from dni.structure.hidden import Hidden, UnitTensor

__all__ = ["check_apart", "gradmax_values", "incoming_norms", "outgoing_norms", "zero_biases"]


def incoming_norms(units: Units) -> Tensor:
    """The L2 norm of all weights that compute each unit, (U,); neither biases nor norms count."""
    made = [own.tensor.movedim(own.axis, 0) for _, own in _sides(units, "producer") if own.tensor.dim() > 1]
    return score_unit_norm(made, num_units=units.num_units)


def outgoing_norms(units: Units, layer: str) -> Tensor:
    """Σ|w| of all that reads each unit, (U,).

    Raises:
        ValueError: nothing in the stage does.
    """
    sums = [
        own.tensor.detach().abs().movedim(own.axis, 0).reshape(units.num_units, -1).sum(1)
        for _, own in _sides(units, "consumer")
    ]
    if not sums:
        raise ValueError(
            f"the use of {layer}'s units is seen in what reads them, but no layer of its stage does. Use ReDo, or cut "
            "the network elsewhere."
        )
    return torch.stack(sums).sum(0)


def zero_biases(units: Units, count: int) -> dict[str, Tensor]:
    """Biases of 0 for so many new units, by tensor."""
    return {
        name: torch.zeros(own.shape_of(count), dtype=own.tensor.dtype, device=own.tensor.device)
        for name, own in _sides(units, "producer")
        if own.tensor.dim() == 1 and own.bound
    }


def gradmax_values(
    units: Units, auxiliary: Tensor, count: int, *, activation: Callable[[Tensor], Tensor], scale: float
) -> dict[str, Tensor]:
    """What GradMax gives to so many new units, by tensor; see `grow_gradmax` for the rest.

    Raises:
        ValueError: the units are not read by one layer of the stage, straight behind the activation.
    """
    readers = [name for name, _ in _sides(units, "consumer")]
    if not readers or any(len(own) > 1 for own in units.tensors.values()):
        raise ValueError(
            f"GradMax needs one layer of the stage that reads the units, got {', '.join(readers) or 'none'}. Use Grow."
        )
    hidden = Hidden(num_units=units.num_units, tensors={name: own for name, (own,) in units.tensors.items()})
    resized = grow_gradmax(hidden, auxiliary.detach(), count, activation=activation, scale=scale)
    fresh = torch.tensor(resized.origin.fresh, dtype=torch.int64)
    return {
        name: value.index_select(resized.changes[name].axis, fresh.to(value.device))
        for name, value in resized.tensors.items()
    }


def check_apart(units: Mapping[str, Units]) -> None:
    """Raise `ValueError` if two layers compute the same units, as those of a residual stream do."""
    taken: dict[tuple[str, int], str] = {}
    for layer, each in units.items():
        for name, own in _sides(each, "producer"):
            other = taken.setdefault((name, own.axis), layer)
            if other != layer:
                raise ValueError(
                    f"the layers of an event must have units of their own, but {other} and {layer} both change axis "
                    f"{own.axis} of {name}: their outputs are added. Name one of them."
                )


def _sides(units: Units, side: Side) -> Iterator[tuple[str, UnitTensor]]:
    return ((name, own) for name, each in units.tensors.items() for own in each if own.side == side)
