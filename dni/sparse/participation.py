"""Which blocks learn at a step?

The others are left as they are, and no gradient is computed for them: a stage builds no graph below the lowest block
that learns, and a stage with nothing to learn is sent no gradient. Blocks are those of `pipeline.Config.blocks`; what
these do not name is divided into its layers, the modules that own parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dni.cadences.pace import Draw

__all__ = ["Layout", "Participation"]


@dataclass(frozen=True, slots=True)
class Layout:
    """The blocks of a network, by name."""

    stages: tuple[tuple[str, ...], ...]
    """Per stage, from the input up."""

    @property
    def blocks(self) -> tuple[str, ...]:
        """All of them, from the input up; one that spans stages once."""
        return tuple(dict.fromkeys(block for stage in self.stages for block in stage))

    def position(self, block: str) -> int:
        """Its place among all blocks, counted from the input.

        Raises:
            ValueError: there is no such block; lists those there are.
        """
        self.check(block)
        return self.blocks.index(block)

    def check(self, *blocks: str) -> None:
        """Raise `ValueError`, with the list of those there are, if there is no such block."""
        for block in blocks:
            if block not in self.blocks:
                raise ValueError(
                    f"there is no block {block!r} in the network; its blocks are {', '.join(self.blocks)}."
                )


@runtime_checkable
class Participation(Protocol):
    """Decides, once per step of the feed, which blocks learn, and at which part of their learning rate."""

    @property
    def sets_rates(self) -> bool:
        """Whether any factor is ever other than 1."""

    @property
    def forgets(self) -> bool:
        """Whether a block that pauses loses its optimiser state, so that it begins anew when it learns again."""

    def check(self, layout: Layout) -> None:
        """Raise `ValueError` if it asks for what the network does not have."""

    def learning(self, step: int, layout: Layout, draw: Draw) -> Mapping[str, float]:
        """The blocks that learn at `step`, each with a factor of its learning rate.

        Every stage asks for itself, so it must follow from the arguments alone.

        Args:
            step: index of the microbatch.
            layout: of the network.
            draw: a number in [0, 1) that belongs to a name and an index, keyed by the seed: the same whoever asks.
        """
