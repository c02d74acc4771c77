"""What does an optimiser keep for a parameter, and how does it follow a change?

The tables name every tensor that the element-wise optimisers of `torch.optim` keep. What they do not name must be a
number that holds for the whole tensor (`step`), and stays. Optimisers with a state of another kind are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

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

__all__ = ["Memory", "Slot", "check_state", "fresh_of", "group_of", "slots_of"]


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

(Measured with torch 2.13.) With stock Adam both are wrong for part of a tensor; an own block for new entries is not.
SGD has no step, so there the last two are the same, and right.
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


def check_state(optimizer: Optimizer, parameter: Tensor) -> None:
    """Raise `TypeError` or `ValueError` if what is kept for a parameter is not as the tables say."""
    slots = slots_of(optimizer)
    for name, value in optimizer.state.get(parameter, {}).items():
        if value is None or not isinstance(value, Tensor):
            continue
        if name in slots and value.shape != parameter.shape:
            raise ValueError(
                f"{type(optimizer).__name__}'s {name} must have its parameter's shape {tuple(parameter.shape)}, found "
                f"{tuple(value.shape)}: the parameter was replaced without its state. Use remap_parameter."
            )
        if name not in slots and value.dim() > 0:
            raise TypeError(
                f"{type(optimizer).__name__} keeps {name!r} of shape {tuple(value.shape)} for a parameter of shape "
                f"{tuple(parameter.shape)}, and it is not known how that follows a change; known are "
                f"{', '.join(slots)}. Change the structure under another optimiser."
            )
