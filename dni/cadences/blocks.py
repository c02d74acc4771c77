"""Which parts of a network have a cadence of their own?

A piece is a parameter or a box of one; a block is a named group of pieces that learn together. What no selector names
is the rest, a block too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from dni.cadences.cadence import Cadence

__all__ = [
    *("REST", "Block", "BlockCadence", "Box", "Piece", "Selector", "Shapes"),
    *("box_name", "split_by_layer", "split_in_blocks"),
]

REST = "rest"
"""Name of the block of everything that no selector names."""
Box: TypeAlias = tuple[tuple[int, int], ...]
"""(start, stop) for each leading axis; what is left out is whole."""
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shapes of the parameters that learn, by their global names, in order."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A parameter, or a box of one."""

    parameter: str
    """Global name."""
    box: Box = ()
    """Empty: the whole parameter."""

    @property
    def name(self) -> str:
        """As `2.weight`, or `2.weight[0:64,0:128]`."""
        return box_name(self.parameter, self.box)

    def of(self, tensor: Tensor) -> Tensor:
        """The view of a tensor of the parameter's shape."""
        return tensor[tuple(slice(start, stop) for start, stop in self.box)] if self.box else tensor

    def is_contiguous(self, shape: Sequence[int]) -> bool:
        """Whether the view of a dense parameter of this shape is dense too."""
        return self.of(torch.empty(tuple(shape), device="meta")).is_contiguous()


@dataclass(frozen=True, slots=True)
class Block:
    """Pieces that learn together, at the same steps."""

    name: str
    pieces: tuple[Piece, ...]


class Selector(Protocol):
    """Names blocks; see `dni.cadences.selectors`."""

    def select(self, shapes: Shapes) -> list[Block]:
        """The blocks it names, in order.

        Raises:
            ValueError: it names nothing, or a box outside of its parameter.
        """


@dataclass(frozen=True)
class BlockCadence:
    """When the blocks that a selector names apply what they have accumulated."""

    selector: Selector
    cadence: Cadence | tuple[Cadence, ...]
    """One for all of its blocks, or one for each, in the selector's order."""
    drifts: bool = False
    """Whether its blocks go on along their momentum between two updates, by the learning rate at each microbatch: an
    update after k microbatches then moves them k times (multirate training, see `Multirate`). Otherwise they stay
    exactly where they are."""

    def __post_init__(self) -> None:
        if not callable(getattr(self.selector, "select", None)):
            raise TypeError(f"blocks are named by a selector (Layer, Rows, Quadrants, ...), got {self.selector!r}.")
        for cadence in self.cadence if isinstance(self.cadence, tuple) else (self.cadence,):
            if not isinstance(cadence, Cadence):
                raise TypeError(f"a block's cadence must be a Cadence (Periodic, Phases, ...), got {cadence!r}.")

    def pair(self, shapes: Shapes) -> list[tuple[Block, Cadence]]:
        """The blocks with their cadences.

        Raises:
            ValueError: the selector refuses, or there are neither one cadence nor as many as blocks.
        """
        blocks = self.selector.select(shapes)
        cadences = self.cadence if isinstance(self.cadence, tuple) else (self.cadence,) * len(blocks)
        if len(cadences) != len(blocks):
            names = ", ".join(block.name for block in blocks)
            raise ValueError(f"{self.selector} names {len(blocks)} blocks ({names}), got {len(cadences)} cadences.")
        return list(zip(blocks, cadences, strict=True))


def split_in_blocks(shapes: Shapes, blocks: Sequence[Block]) -> Block:
    """The rest: every piece that no block names, in the order of the parameters.

    Raises:
        ValueError: two blocks overlap, or have the same name.
    """
    taken: dict[str, list[tuple[Piece, Block]]] = {}
    for block in blocks:
        for piece in block.pieces:
            taken.setdefault(piece.parameter, []).append((piece, block))
    for pieces in taken.values():
        for (piece, block), (other, second) in combinations(pieces, 2):
            if _overlap(piece.box, other.box):
                raise ValueError(
                    f"blocks must not overlap, but {piece.name} (block {block.name}) and {other.name} (block "
                    f"{second.name}) share elements. Name each element of a parameter once."
                )
    names = [block.name for block in blocks]
    if repeated := next((name for name in names if names.count(name) > 1 or name == REST), None):
        raise ValueError(f"block names must differ, and {REST!r} is what no selector names; got {repeated!r} again.")
    rest: list[Piece] = []
    for name, shape in shapes.items():
        boxes: list[Box] = [tuple((0, size) for size in shape)]
        for piece, _ in taken.get(name, ()):
            boxes = [left for box in boxes for left in _without(box, piece.box)]
        rest += [Piece(name, box) for box in boxes] if name in taken else [Piece(name)]
    return Block(REST, tuple(rest))


def split_by_layer(pieces: Iterable[Piece]) -> list[Block]:
    """The pieces of each layer as a block of its name: `2.weight` and `2.bias` are of layer `2`.

    A parameter that no module within the network owns is a layer by itself.
    """
    layers: dict[str, list[Piece]] = {}
    for piece in pieces:
        layers.setdefault(piece.parameter.rpartition(".")[0] or piece.parameter, []).append(piece)
    return [Block(name, tuple(own)) for name, own in layers.items()]


def box_name(parameter: str, box: Box) -> str:
    """A parameter's name, with the box behind it if it is not the whole."""
    return f"{parameter}[{','.join(f'{start}:{stop}' for start, stop in box)}]" if box else parameter


def _overlap(box: Box, other: Box) -> bool:
    return all(max(a[0], b[0]) < min(a[1], b[1]) for a, b in zip(box, other, strict=False))


def _without(box: Box, hole: Box) -> Iterator[Box]:
    """A full box less another, as boxes: below and above the hole on each axis, what is left going on to the next."""
    hole = (*hole, *box[len(hole) :])
    if not _overlap(box, hole):
        yield box
        return
    for axis, ((start, stop), (low, high)) in enumerate(zip(box, hole, strict=True)):
        for side in ((start, max(start, low)), (min(stop, high), stop)):
            cut = (*box[:axis], side, *box[axis + 1 :])
            if prod(last - first for first, last in cut):
                yield cut
        box = (*box[:axis], (max(start, low), min(stop, high)), *box[axis + 1 :])
