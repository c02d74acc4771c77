"""How does a source of gradients or of inputs follow a change of units, with the one of before left whole?"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch

from dni import Origin, Remappable

__all__ = ["remapped"]

_Source = TypeVar("_Source")


def remapped(source: _Source, origin: Origin, *, axis: int, draws: torch.Generator) -> _Source:
    """A copy that serves the units as they will be.

    Args:
        source: of gradients or of inputs, built.
        origin: of the entries along the axis.
        axis: of h.
        draws: what begins at random.

    Raises:
        TypeError: it does not say how it follows.
        ValueError: it cannot follow.
    """
    if not isinstance(source, Remappable):
        raise TypeError(
            f"the units at a boundary can change where its source has a method remap(origin, *, generator, axis), and "
            f"{type(source).__name__} has none. Give it one, or choose layers whose units stay within a stage."
        )
    follower = copy.deepcopy(source)
    follower.remap(origin, generator=draws, axis=axis)
    return follower
