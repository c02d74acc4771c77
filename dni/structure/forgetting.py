"""How does an optimiser forget part of what it knows about a parameter?

To forget an entry is to put its slots to what they are before the first update.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dni.structure.optimizer_state import (
    Memory,
    check_memory,
    check_state,
    counter_start,
    fresh_of,
    group_of,
    slots_of,
)

__all__ = ["forget_", "held_slots"]


def held_slots(optimizer: Optimizer, parameter: Tensor) -> Iterator[tuple[str, Tensor, float]]:
    """The slots that are there of a parameter: key, tensor of its shape, and the value that an entry begins with.

    That is 0 but for Adagrad's `sum` and the `step_size` of Rprop. An average of the parameter's values (ASGD's `ax`)
    is not among them: it begins with the value.

    Raises:
        TypeError, ValueError: the optimiser's state is not known, or does not fit the parameter.
    """
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    if not state:
        return
    known = slots_of(optimizer)
    # To look a parameter up among many pieces takes long, and most slots begin with 0 whatever the group says.
    group = group_of(optimizer, parameter) if any(slot.fresh for slot in known.values()) else {}
    check_state(optimizer, state, shape=tuple(parameter.shape), name="a parameter")
    for key, slot in known.items():
        value = state.get(key)
        if value is not None and slot.kind != "value":
            yield key, value, fresh_of(slot, group)


def forget_(optimizer: Optimizer, parameter: Tensor, entries: Tensor, memory: Memory) -> None:
    """Treat the state of some entries of a parameter as `memory` says; state that is not there yet is left so.

    An average of the parameter's values begins with the value that it has now.

    Args:
        optimizer: one whose state is kept element by element.
        parameter: whatever it has no state of has nothing to forget.
        entries: bool, shaped like the parameter.
        memory: what becomes of it.

    Raises:
        ValueError: `memory` is no choice, or the state does not fit the parameter.
        TypeError: the optimiser's state is not known.
    """
    check_memory(memory)
    if memory == "keep" or not bool(entries.any()):
        return
    for _, value, start in held_slots(optimizer, parameter):
        value.masked_fill_(entries, start)
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    for key, slot in slots_of(optimizer).items() if state else ():
        if slot.kind == "value" and state.get(key) is not None:
            state[key].copy_(torch.where(entries, parameter.detach(), state[key]))
    if memory == "zero moments and step" and state:
        _restart_(state, group_of(optimizer, parameter), entries)


def _restart_(state: dict[str, Any], group: Mapping[str, Any], entries: Tensor) -> None:
    for key, value in state.items():
        start = counter_start(key, group)
        if start is None:
            continue
        if not isinstance(value, Tensor):
            state[key] = type(value)(start)
        elif value.numel() == 1:
            value.fill_(start)
        else:
            value.masked_fill_(entries, start)
