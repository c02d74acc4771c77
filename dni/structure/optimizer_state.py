"""What does an optimiser keep for a parameter, and how does it follow a change?

The tables name all that the element-wise optimisers of `torch.optim` keep: a *slot* is a tensor of the parameter's
shape (momentum, Adam's moments), a *counter* a number of the parameter as a whole (`step`). Numbers that they do not
name stay as they are; optimisers with a state of another kind are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Muon,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rprop,
)

from dni.structure.followers import Kind

__all__ = [
    *("Memory", "Slot", "State"),
    *("check_memory", "check_state", "counter_start", "fresh_of", "fresh_state", "group_of", "slots_of"),
]

State: TypeAlias = Mapping[str, Any]
"""What an optimiser keeps for a parameter; empty before its first update."""
Memory: TypeAlias = Literal["keep", "zero moments", "zero moments and step"]
"""What becomes of the optimiser's state of entries that are given new values.

keep: nothing. The moments belong to other values; momentum pulls the new ones where it pulled the old ones.
zero moments: their slots begin anew, and `step` goes on. As in ReDo's own code. With Adam (β .9/.999, constant
    gradient) the first step of such an entry is 3.2 times the learning rate, the largest 6.57 times (at step 12), more
    than 1.5 times for about 590 steps: bias correction takes its moments for mature ones.
zero moments and step: exactly the learning rate from the first step for what was reset; but torch has one `step` for a
    tensor, so all of its other entries, whose moments are mature, are slowed to 0.32 times at first, 0.15 at step 10,
    0.31 at step 100, 0.63 at 500 and 0.93 at 2,000. Right if the whole tensor is reset, or for an optimiser whose
    `step` has the parameter's shape: then only the entries' own count begins anew.

(Measured with torch 2.13.) With stock Adam both are wrong for part of a tensor; a piece of their own for new entries is
not (`dni.structure.pieces`). SGD has no step, so there the last two are the same, and right.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A tensor of the parameter's shape that an optimiser keeps."""

    kind: Kind
    fresh: str = ""
    """The option of the parameter's group that it begins with; empty: with zeros."""


_MOMENT, _SQUARE, _COPY = Slot(kind="gradient"), Slot(kind="square"), Slot(kind="copy")
_ADAM = {"exp_avg": _MOMENT, "exp_avg_sq": _SQUARE, "max_exp_avg_sq": _SQUARE}
_SLOTS: Mapping[type[Optimizer], Mapping[str, Slot]] = MappingProxyType(
    {
        SGD: {"momentum_buffer": _MOMENT},
        Muon: {"momentum_buffer": _MOMENT},
        Adam: _ADAM,
        AdamW: _ADAM,
        NAdam: _ADAM,
        RAdam: _ADAM,
        Adamax: {"exp_avg": _MOMENT, "exp_inf": _MOMENT},
        Adagrad: {"sum": Slot(kind="square", fresh="initial_accumulator_value")},
        # The buffer holds gradients divided by their root mean square, acc_delta squares of updates: free of scale.
        RMSprop: {"square_avg": _SQUARE, "grad_avg": _MOMENT, "momentum_buffer": _COPY},
        Adadelta: {"square_avg": _SQUARE, "acc_delta": _COPY},
        ASGD: {"ax": Slot(kind="value")},
        Rprop: {"prev": _MOMENT, "step_size": Slot(kind="copy", fresh="lr")},
    }
)
_COUNTERS: Mapping[str, float | str] = MappingProxyType({"step": 0.0, "mu_product": 1.0, "mu": 1.0, "eta": "lr"})
"""What counters begin with, in every optimiser that has them: a number, or that option of the parameter's group."""


def slots_of(optimizer: Optimizer) -> Mapping[str, Slot]:
    """What an optimiser keeps element by element.

    Raises:
        TypeError: its state cannot be mapped, or is not known.
    """
    for kind in type(optimizer).__mro__:
        if kind in _SLOTS:
            return _SLOTS[kind]
    known = ", ".join(sorted(kind.__name__ for kind in _SLOTS))
    raise TypeError(
        f"the structure of a network can change only under an optimiser whose state is kept element by element, got "
        f"{type(optimizer).__name__}. Use one of {known}, or one derived from them."
    )


def group_of(optimizer: Optimizer, parameter: Tensor) -> dict[str, Any]:
    """The group that holds a parameter.

    Raises:
        ValueError: none does, or it is there twice (tied).
    """
    groups = [group for group in optimizer.param_groups for own in group["params"] if own is parameter]
    if len(groups) != 1:
        raise ValueError(
            f"a parameter of shape {tuple(parameter.shape)} must be in its {type(optimizer).__name__} once, found "
            f"{len(groups)} times. Give the optimiser that holds it; untie what is shared."
        )
    return groups[0]


def fresh_of(slot: Slot, group: Mapping[str, Any]) -> float:
    """What the optimiser itself begins this tensor with."""
    return float(group[slot.fresh]) if slot.fresh else 0.0


def counter_start(name: str, group: Mapping[str, Any]) -> float | None:
    """What a counter begins with; None for what is no counter."""
    start = _COUNTERS.get(name)
    return float(group[start]) if isinstance(start, str) else start


def fresh_state(optimizer: Optimizer, group: Mapping[str, Any], like: Tensor) -> dict[str, Any]:
    """The state of a parameter that has had no update: none, but Adagrad makes its own when it is made itself.

    Args:
        optimizer: of whatever parameters.
        group: the options of the parameter.
        like: the parameter, or a tensor of its shape, type and place.
    """
    if not isinstance(optimizer, Adagrad):
        return {}
    initial = torch.full(like.shape, fresh_of(slots_of(optimizer)["sum"], group), dtype=like.dtype, device=like.device)
    fused = bool(group.get("fused"))  # torch keeps the step of a fused optimiser beside its parameter
    step = torch.zeros((), dtype=torch.float32, device=like.device) if fused else torch.tensor(0.0)
    return {"step": step, "sum": initial}


def check_memory(memory: Memory) -> None:
    """Raise `ValueError` if there is no such choice."""
    if memory not in get_args(Memory):
        raise ValueError(f"an optimiser may keep, zero moments, or zero moments and step; got {memory!r}.")


def check_state(optimizer: Optimizer, state: State, *, shape: tuple[int, ...], name: str) -> None:
    """Raise `TypeError` or `ValueError` if what is kept for a parameter of this shape is not as the tables say."""
    slots, kind = slots_of(optimizer), type(optimizer).__name__
    for key, value in state.items():
        if value is None or not isinstance(value, Tensor) or (key not in slots and value.numel() == 1):
            continue
        if key in slots and value.shape != shape:
            raise ValueError(
                f"{kind}'s {key} of {name} must have its parameter's shape {shape}, found {tuple(value.shape)}: the "
                "parameter was replaced without its state. Load both from the same place."
            )
        if key in _COUNTERS and value.shape != shape:
            raise ValueError(
                f"{kind}'s {key} of {name} must be one number or have the parameter's shape, {shape}; got "
                f"{tuple(value.shape)}. Keep one count for the parameter, or one for each entry."
            )
        if key not in slots and key not in _COUNTERS:
            raise TypeError(
                f"{kind} keeps {key!r} of shape {tuple(value.shape)} for {name} of shape {shape}, and it is not known "
                f"how that follows a change; known are {', '.join(slots)}. Change the structure under another "
                "optimiser."
            )
