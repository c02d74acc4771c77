"""What does a source wait for that comes from other stages?"""

from __future__ import annotations

from dni import GradientSource, Need
from pipeline.stash import Part, Parts

__all__ = ["awaited_to_act", "awaited_to_learn"]

_PARTS: tuple[tuple[Part, Need], ...] = (("gradient", Need.GRADIENT), ("error", Need.ERROR), ("loss", Need.LOSS))


def awaited_to_act(source: GradientSource) -> Parts:
    """What has to come from other stages before the source can say anything."""
    return frozenset(part for part, need in _PARTS if source.needs & need)


def awaited_to_learn(source: GradientSource) -> Parts:
    """What has to come from other stages before the source can learn."""
    return frozenset(part for part, need in _PARTS if source.learns_from & need)
