"""What does an optimiser remember of each number in a parameter, and how does it forget?

A slot is a tensor of state that has the parameter's shape (momentum, Adam's moments); a counter belongs to the tensor
as a whole (`step`). To forget an entry is to put its slots to what they are before the first update.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dni.structure.optimizer_state import Memory

__all__ = ["forget_", "slots"]

_COUNTERS = {"step": 0.0, "mu_product": 1.0, "mu": 1.0}
"""State that counts updates, of a tensor as a whole, and what it begins with (`eta` begins with the learning rate)."""


def slots(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Iterator[tuple[str, Tensor, float]]:
    """The slots of a parameter: key, tensor of its shape, and the value that an entry begins with.

    That is 0 but for Adagrad's `sum`, and for the `step_size` of Rprop.
    """
    group = _group(optimizer, parameter)
    for key, value in _state(optimizer, parameter).items():
        if isinstance(value, Tensor) and value.shape == parameter.shape and not _is_counter(key):
            if key == "sum":
                yield key, value, float(group.get("initial_accumulator_value", 0.0))
            else:
                yield key, value, float(group["lr"]) if key == "step_size" else 0.0


def forget_(optimizer: torch.optim.Optimizer, parameter: Tensor, entries: Tensor, memory: Memory) -> None:
    """Treat the state of some entries of a parameter as `memory` says; state that is not there yet is left so.

    Args:
        optimizer: any of `torch.optim` that keeps state by parameter.
        parameter: that the optimiser has.
        entries: bool, shaped like the parameter.
        memory: what becomes of it.

    Raises:
        ValueError: `memory` is no choice, or a counter has neither one number nor the parameter's shape.
    """
    if memory not in ("keep", "zero moments", "zero moments and step"):
        raise ValueError(f"an optimiser may keep, zero moments, or zero moments and step; got {memory!r}.")
    if memory == "keep" or not bool(entries.any()):
        return
    for _, value, start in slots(optimizer, parameter):
        value.masked_fill_(entries, start)
    if memory == "zero moments and step":
        _restart_(optimizer, parameter, entries)


def _restart_(optimizer: torch.optim.Optimizer, parameter: Tensor, entries: Tensor) -> None:
    state = _state(optimizer, parameter)
    for key, value in state.items():
        if not _is_counter(key):
            continue
        start = float(_group(optimizer, parameter)["lr"]) if key == "eta" else _COUNTERS[key]
        if not isinstance(value, Tensor):
            state[key] = type(value)(start)
        elif value.numel() == 1:
            value.fill_(start)
        elif value.shape == entries.shape:
            value.masked_fill_(entries, start)
        else:
            raise ValueError(
                f"an optimiser's {key} must be one number or have the parameter's shape, {tuple(entries.shape)}, "
                f"to begin anew; got {tuple(value.shape)}."
            )


def _is_counter(key: str) -> bool:
    return key in _COUNTERS or key == "eta"


def _state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Any]:
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    return state


def _group(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Any]:
    for group in optimizer.param_groups:
        if any(each is parameter for each in group["params"]):
            return group
    return {}
