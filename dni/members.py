"""Which tensors of a stage's output carry a gradient?

h is one tensor or a tuple of tensors. Only its floating-point members have a gradient; the others (token
indices, masks) pass through. Nothing else in the project branches on "a tensor or a tuple of tensors".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor

__all__ = ["Members", "as_tuple", "carriers", "like", "map_members", "num_samples"]

Members: TypeAlias = Tensor | tuple[Tensor | None, ...]
"""One tensor, or a tuple of tensors (None where a gradient has no member)."""


def as_tuple(h: Members) -> tuple[Tensor | None, ...]:
    """The members of `h`, in order."""
    return h if isinstance(h, tuple) else (h,)


def carriers(h: Members) -> list[Tensor]:
    """The floating-point members of `h`, in order."""
    return [member for member in as_tuple(h) if member is not None and member.is_floating_point()]


def like(h: Members, values: Sequence[Tensor]) -> Members:
    """Give each floating-point member of `h` its value from `values`; None for the other members."""
    if not isinstance(h, tuple):
        return values[0]
    remaining = iter(values)
    return tuple(next(remaining) if member is not None and member.is_floating_point() else None for member in h)


def map_members(function: Callable[[Tensor], Tensor], h: Members) -> Members:
    """Apply `function` to every member of `h`."""
    if isinstance(h, tuple):
        return tuple(None if member is None else function(member) for member in h)
    return function(h)


def num_samples(h: Members) -> int:
    """N, the length of the first axis of every member of `h`."""
    for member in as_tuple(h):
        if member is not None:
            return int(member.shape[0])
    return 0
