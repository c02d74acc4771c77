"""Which random numbers belong to which tensor?

What is drawn for a tensor depends on its name alone, so a network cut into other stages, or a replica, draws the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Keyed", "draw_normal", "draw_uniform"]

Keyed: TypeAlias = Callable[[str], torch.Generator]
"""A fresh CPU generator for a global name, the same at every call; as `lambda name: generator(seed, name, step)`."""


def draw_uniform(keyed: Keyed, name: str, like: Tensor) -> Tensor:
    """Numbers in [0, 1] in the shape, type and place of `like`; the bits do not depend on the place."""
    return torch.rand(like.shape, generator=keyed(name), dtype=torch.float64).to(like)


def draw_normal(keyed: Keyed, name: str, like: Tensor) -> Tensor:
    """Numbers from N(0, 1) in the shape, type and place of `like`."""
    return torch.randn(like.shape, generator=keyed(name), dtype=torch.float64).to(like)
