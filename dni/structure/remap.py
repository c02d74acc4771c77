"""What becomes of a parameter, and of what follows it beside the optimiser's state?

All of it is computed from what is there, and nothing is changed: a change that is refused leaves everything as it was.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from dni.structure.change import TensorChange
from dni.structure.followers import fresh_entries, map_tensor

__all__ = ["Follower", "apply_change", "check_untied", "follow_tensor"]

Follower: TypeAlias = Literal["gradient", "average", "mask"]
"""A tensor of the parameter's shape that someone else keeps: an accumulated gradient (new entries 0), an average of the
parameter's values, or earlier ones (what is new, or begins anew, begins with the new values), or a mask (new entries
are active)."""


def apply_change(tensor: Tensor, change: TensorChange) -> Tensor:
    """What a parameter or a buffer becomes: the value of the change, or what its axes make of the old one.

    Returns:
        A tensor of the type and place of the old one that shares no memory with it, nor with the change.

    Raises:
        ValueError: the axes or the value do not fit.
        TypeError: the tensor is complex.
    """
    if torch.is_complex(tensor):
        raise TypeError("the structure of complex parameters cannot change. Keep real and imaginary parts apart.")
    mapped = map_tensor(tensor, change.axes, "value")
    if change.value is None:
        return mapped
    if change.value.shape != mapped.shape:
        raise ValueError(
            f"the parameter {tuple(tensor.shape)} becomes {tuple(mapped.shape)} by its changes, but the value given "
            f"for it is {tuple(change.value.shape)}. Take both from the same plan."
        )
    return mapped.copy_(change.value.detach())


def follow_tensor(tensor: Tensor, kind: Follower, change: TensorChange, *, value: Tensor) -> Tensor:
    """What a tensor becomes that follows a parameter.

    Args:
        tensor: of the parameter's shape before.
        kind: what it holds.
        change: of the parameter.
        value: the parameter's new value.

    Returns:
        A tensor of its own, of the new shape.

    Raises:
        ValueError: the tensor, the changes and the value do not fit, or there is no such kind.
    """
    match kind:
        case "gradient":
            mapped = map_tensor(tensor, change.axes, "gradient")
        case "mask":
            mapped = map_tensor(tensor, change.axes, "copy", fresh=1)
        case "average":
            mapped = map_tensor(tensor, change.axes, "value")
        case _:
            raise ValueError(f"what follows a parameter is a gradient, an average or a mask, got {kind!r}.")
    if mapped.shape != value.shape:
        raise ValueError(
            f"a tensor that follows must have its parameter's shape, but this {kind} {tuple(tensor.shape)} becomes "
            f"{tuple(mapped.shape)}, and the parameter {tuple(value.shape)}. Give it as it was before the change."
        )
    if kind == "average":
        begins = fresh_entries(tensor.shape, change.axes, device=mapped.device)
        if change.anew is not None:
            begins = begins | change.anew.to(mapped.device)
        return torch.where(begins, value.detach().to(mapped), mapped)
    return mapped


def check_untied(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that owns a parameter, and its name there.

    Raises:
        ValueError: there is none of this name, or the network has it under other names too (tied).
    """
    named = dict(network.named_parameters(remove_duplicate=False))
    if name not in named:
        raise ValueError(f"there is no parameter {name!r} in the network; it has {', '.join(named) or 'none'}.")
    aliases = [other for other, parameter in named.items() if parameter is named[name]]
    if len(aliases) > 1:
        raise ValueError(
            f"a parameter whose shape changes must have one place, but {' and '.join(aliases)} are tied. Untie them, "
            "or leave these layers as they are."
        )
    path, _, own = name.rpartition(".")
    return network.get_submodule(path), own
