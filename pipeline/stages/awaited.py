"""What does a source wait for that comes from other stages, and what does it do without?"""

from __future__ import annotations

from dataclasses import dataclass

from dni import GradientSource, Need, local_parts
from pipeline.stages.stash import NOTHING, Part, Parts

__all__ = ["Awaited"]

_PARTS: tuple[tuple[Part, Need], ...] = (("gradient", Need.GRADIENT), ("error", Need.ERROR), ("loss", Need.LOSS))


@dataclass(frozen=True, kw_only=True)
class Awaited:
    """Of one source, what the runtime has to know."""

    to_act: Parts = NOTHING
    """What has to come from other stages before it can say anything."""
    to_learn: Parts = NOTHING
    """What has to come from other stages before it can learn."""
    learns_alone: bool = False
    """Whether it learns and waits for nothing, so at the stage's own step."""
    acts_apart: bool = False
    """Whether something of it never asks for anything from above, so that it acts at every step, also one that does not
    go on to the stages above."""
    learns_apart: bool = False
    """Whether something of that learns."""

    @staticmethod
    def by(source: GradientSource) -> Awaited:
        """What `source` waits for."""
        to_learn = _parts(source.learns_from)
        return Awaited(
            to_act=_parts(source.needs),
            to_learn=to_learn,
            learns_alone=bool(source.learns_from) and not to_learn,
            acts_apart=bool(local_parts(source)),
            learns_apart=any(part.learns_from for part in local_parts(source)),
        )


def _parts(needed: Need) -> Parts:
    return frozenset(part for part, need in _PARTS if needed & need)
