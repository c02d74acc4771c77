"""What follows a parameter when its shape changes?

One function maps the parameter, its gradient, what was added up of it, masks, averages of it and the optimiser's state,
and puts the new parameter in the old one's place. Everything is computed before anything is replaced, so that what is
refused leaves the old structure whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dni.structure.followers import AxisChange, check_changes, fresh_entries, map_tensor
from dni.structure.optimizer_state import check_state, fresh_of, group_of, slots_of

__all__ = ["Follower", "Remapped", "check_untied", "install_", "prepare_remap", "remap_parameter", "replace_parameter_"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """A tensor of the parameter's shape that someone else keeps."""

    tensor: Tensor
    kind: Literal["gradient", "average", "mask"]
    """An accumulated gradient (new entries 0); an average of the parameter's values, or earlier ones (new entries begin
    with the new values); a mask (new entries are active)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remapped:
    """A parameter after a change, and all that followed it. Holds nothing of the old one."""

    parameter: nn.Parameter
    followers: dict[str, Tensor]
    """By the names under which they were given."""
    state: dict[str, Any] = field(default_factory=dict)
    """The optimiser's; empty if it had none."""


def remap_parameter(
    parameter: nn.Parameter,
    changes: Sequence[AxisChange],
    *,
    optimizer: Optimizer | None = None,
    value: Tensor | None = None,
    followers: Mapping[str, Follower] | None = None,
) -> Remapped:
    """Map a parameter with all that follows it, and put the new one in the old one's place in the optimiser.

    Hooks of the old parameter do not follow, and its modules still hold it: see `replace_parameter_`.

    Args:
        parameter: before the change. Left as it is; nothing here keeps it alive.
        changes: one for each axis that changes.
        optimizer: holds it; None if none does.
        value: of the new shape, where more than the copies is known (new units, noise). By default copies are scaled
            as their side asks for and new entries are 0.
        followers: what else has its shape, by name.

    Returns:
        The new parameter, with its gradient (new entries 0) if the old one had one, and what followed it.

    Raises:
        ValueError: the changes, the value or a follower do not fit; the parameter is not once in the optimiser.
        TypeError: the optimiser's state cannot be mapped.
    """
    remapped = prepare_remap(parameter, changes, optimizer=optimizer, value=value, followers=followers)
    if optimizer is not None:
        install_(remapped, parameter, optimizer)
    return remapped


def prepare_remap(
    parameter: nn.Parameter,
    changes: Sequence[AxisChange],
    *,
    optimizer: Optimizer | None = None,
    value: Tensor | None = None,
    followers: Mapping[str, Follower] | None = None,
) -> Remapped:
    """What `remap_parameter` would return, with nothing replaced yet: an event prepares all, then installs all."""
    followers = followers or {}
    _check(parameter, changes, followers)
    mapped = map_tensor(parameter, changes, "value")
    if value is not None:
        if value.shape != mapped.shape:
            raise ValueError(
                f"the parameter {tuple(parameter.shape)} becomes {tuple(mapped.shape)} by its changes, but the value "
                f"given for it is {tuple(value.shape)}. Take both from the same plan."
            )
        mapped = value.detach().to(mapped).clone()
    new = nn.Parameter(mapped, requires_grad=parameter.requires_grad)
    if parameter.grad is not None:
        new.grad = map_tensor(parameter.grad, changes, "gradient")
    return Remapped(
        parameter=new,
        followers={name: _follow(own, changes, value=mapped) for name, own in followers.items()},
        state={} if optimizer is None else _map_state(optimizer, parameter, changes, value=mapped),
    )


def install_(remapped: Remapped, parameter: nn.Parameter, optimizer: Optimizer) -> None:
    """Put the new parameter and its state in the place of the old one: the same group, the same position."""
    own = group_of(optimizer, parameter)["params"]
    position = next(index for index, other in enumerate(own) if other is parameter)
    own[position] = remapped.parameter
    optimizer.state.pop(parameter, None)
    if remapped.state:
        optimizer.state[remapped.parameter] = remapped.state


def replace_parameter_(network: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Put a parameter in the place of the one that a network has under this name.

    Raises:
        ValueError: there is none of this name, or the network has it under other names too (tied).
    """
    owner, own = check_untied(network, name)
    setattr(owner, own, parameter)


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


def _check(parameter: nn.Parameter, changes: Sequence[AxisChange], followers: Mapping[str, Follower]) -> None:
    if torch.is_complex(parameter):
        raise TypeError("the structure of complex parameters cannot change. Keep real and imaginary parts apart.")
    check_changes(parameter.shape, changes)
    for name, follower in followers.items():
        if follower.tensor.shape != parameter.shape:
            raise ValueError(
                f"{name} must have the shape of the parameter that it follows, {tuple(parameter.shape)}, got "
                f"{tuple(follower.tensor.shape)}. Give it as it was before the change."
            )


def _follow(follower: Follower, changes: Sequence[AxisChange], *, value: Tensor) -> Tensor:
    if follower.kind == "gradient":
        return map_tensor(follower.tensor, changes, "gradient")
    if follower.kind == "mask":
        return map_tensor(follower.tensor, changes, "copy", fresh=1)
    return _averaged(follower.tensor, changes, value=value)


def _averaged(average: Tensor, changes: Sequence[AxisChange], *, value: Tensor) -> Tensor:
    """An average of the values: where there is nothing to average yet, it is the value."""
    mapped = map_tensor(average, changes, "value")
    return torch.where(fresh_entries(average.shape, changes, device=value.device), value.to(mapped), mapped)


def _map_state(
    optimizer: Optimizer, parameter: nn.Parameter, changes: Sequence[AxisChange], *, value: Tensor
) -> dict[str, Any]:
    slots, group = slots_of(optimizer), group_of(optimizer, parameter)
    check_state(optimizer, parameter)
    state: dict[str, Any] = {}
    for name, held in optimizer.state.get(parameter, {}).items():
        if held is None or name not in slots:
            state[name] = held
        elif slots[name].kind == "value":
            state[name] = _averaged(held, changes, value=value)
        else:
            state[name] = map_tensor(held, changes, slots[name].kind, fresh=fresh_of(slots[name], group))
    return state
