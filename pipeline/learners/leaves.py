"""What does an optimiser know of the parts of a stage's parameters, and how do they follow a change of structure?

A part of a weight is a parameter of its own that shares the weight's memory: because its block has a cadence of its
own, or because its entries are younger than the others and have a count of updates of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.optim import Optimizer

from dni import Block, Piece, PieceState, TensorChange, follow_pieces, group_of, merge_mature

__all__ = ["Leaf", "follow_leaves", "make_leaves"]


@dataclass(slots=True)
class Leaf:
    """What the optimiser knows of a piece."""

    piece: Piece
    block: str
    parameter: nn.Parameter
    """The piece: the stage's own parameter, or one that shares its memory."""
    touched: bool = False
    """Whether a gradient of it was added up since its last update."""


def make_leaves(
    parameters: Mapping[str, nn.Parameter], blocks: Sequence[Block], ages: Mapping[str, Sequence[Piece]]
) -> list[Leaf]:
    """In the order of the parameters, whatever that of the blocks; of different ages, in that of their boxes.

    Args:
        parameters: by global name.
        blocks: each element of the parameters lies in one of them.
        ages: the pieces of parameters whose entries are not all of one age; none lies across two blocks.
    """
    leaves = [
        Leaf(part, block.name, _sharing(parameters[part.parameter], part))
        for block in blocks
        for piece in block.pieces
        for part in ([piece] if piece.box else ages.get(piece.parameter, [piece]))
    ]
    order = {name: position for position, name in enumerate(parameters)}
    return sorted(leaves, key=lambda leaf: (order[leaf.piece.parameter], leaf.piece.box))


def follow_leaves(
    leaves: Sequence[Leaf],
    change: TensorChange,
    *,
    parameter: Tensor,
    value: Tensor,
    optimizer: Optimizer,
    divided: Collection[str],
) -> list[PieceState]:
    """The pieces of one parameter after a change, each with what the optimiser is to keep of it.

    Args:
        leaves: all of the parameter.
        change: of it.
        parameter: as it is.
        value: what it will be.
        optimizer: holds the leaves; left as it is.
        divided: parameters of which a block is but a part: their pieces stay what they are.

    Raises:
        ValueError: the shape of a divided parameter would change, or something does not fit.
        TypeError: the optimiser's state cannot follow.
    """
    name = leaves[0].piece.parameter
    group = group_of(optimizer, leaves[0].parameter)
    pieces = [PieceState(piece=leaf.piece, state=optimizer.state.get(leaf.parameter, {})) for leaf in leaves]
    if name not in divided:
        pieces = merge_mature(pieces, value=parameter, optimizer=optimizer, group=group)
        shape = tuple(parameter.shape)
        return follow_pieces(pieces, change, shape=shape, value=value, optimizer=optimizer, group=group)
    if change.axes:
        raise ValueError(
            f"{name} is divided into the blocks {', '.join(leaf.block for leaf in leaves)}, and its shape cannot "
            "change. Name whole parameters or layers as blocks (Parameter, Layer)."
        )
    followed = []
    for leaf, each in zip(leaves, pieces, strict=True):
        (own,) = follow_pieces(
            [PieceState(piece=Piece(name), state=each.state)],
            replace(change, anew=None if change.anew is None else leaf.piece.of(change.anew)),
            shape=tuple(leaf.parameter.shape),
            value=leaf.piece.of(value),
            optimizer=optimizer,
            group=group,
        )
        followed.append(PieceState(piece=leaf.piece, state=own.state))
    return followed


def _sharing(parameter: nn.Parameter, piece: Piece) -> nn.Parameter:
    """The parameter itself for the whole of it; else one that shares its memory and its version counter."""
    return nn.Parameter(piece.of(parameter.detach())) if piece.box else parameter
