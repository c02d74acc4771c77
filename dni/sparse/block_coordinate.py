"""A few layers at a time learn, for some steps, while the others pause: block-coordinate descent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dni.cadences.pace import Draw
from dni.sparse.participation import Layout

__all__ = ["InCycles", "RandomLayers"]


@dataclass(frozen=True)
class InCycles:
    """One block after the other, each for `every` steps; a block that pauses forgets its optimiser state.

    So there is optimiser state of one block at a time.    Source: Luo et al. 2024 (BAdam, arXiv 2404.02827) and its
    code, with Adam. Differs: weights keep their precision, where the code has a copy in 32 bits of the block.
    """

    every: int = 50
    """Steps of a block's turn."""
    order: Literal["random", "ascending", "descending"] = "random"
    """random: drawn anew in each cycle. ascending: from the input up."""
    always: tuple[str, ...] = ()
    """Blocks that learn at every step, and take no turns."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"a block's turn must be at least 1 step, got {self.every}.")

    @property
    def sets_rates(self) -> bool:
        return False

    @property
    def forgets(self) -> bool:
        return True

    def check(self, layout: Layout) -> None:
        _check_turns(self.always, layout)

    def learning(self, step: int, layout: Layout, draw: Draw) -> Mapping[str, float]:
        blocks = [block for block in layout.blocks if block not in self.always]
        cycle, turn = divmod(step // self.every, len(blocks))
        if self.order == "random":
            blocks.sort(key=lambda block: draw(block, cycle))
        elif self.order == "descending":
            blocks.reverse()
        return dict.fromkeys((*self.always, blocks[turn]), 1.0)


@dataclass(frozen=True)
class RandomLayers:
    """Some layers drawn every so many steps, and with them the lowest and the highest; optimiser state is kept.

    Source: Pan et al. 2024 (LISA, arXiv 2403.17919) and its code: embedding and head always, 2 of the layers between
    them, drawn anew every 20 steps.
    """

    count: int = 2
    """Layers drawn."""
    every: int = 20
    """Steps from one draw to the next."""
    always: tuple[str, ...] | None = None
    """Layers that learn at every step; None: those at the input and at the output."""

    def __post_init__(self) -> None:
        if self.count < 0 or self.every < 1:
            raise ValueError(
                f"a draw of layers has a count of 0 or more, every 1 or more steps; got {self.count} and {self.every}."
            )

    @property
    def sets_rates(self) -> bool:
        return False

    @property
    def forgets(self) -> bool:
        return False

    def check(self, layout: Layout) -> None:
        always = self._always(layout)
        _check_turns(always, layout)
        if self.count > (others := len(layout.blocks) - len(set(always))):
            raise ValueError(f"{self.count} layers cannot be drawn from {others}: {', '.join(layout.blocks)}.")

    def learning(self, step: int, layout: Layout, draw: Draw) -> Mapping[str, float]:
        always = self._always(layout)
        others = [block for block in layout.blocks if block not in always]
        others.sort(key=lambda block: draw(block, step // self.every))
        return dict.fromkeys((*always, *others[: self.count]), 1.0)

    def _always(self, layout: Layout) -> tuple[str, ...]:
        return (layout.blocks[0], layout.blocks[-1]) if self.always is None else self.always


def _check_turns(always: tuple[str, ...], layout: Layout) -> None:
    layout.check(*always)
    if set(layout.blocks) <= set(always):
        raise ValueError(
            f"nothing is left to take turns: {', '.join(always)} learn at every step, and are all there is."
        )
