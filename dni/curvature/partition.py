"""Which parameters share one step size?

A partition puts every number of the parameters into exactly one subset. A subset is a `Block` (`dni.cadences.blocks`):
a stage, a layer, a tensor, part of one weight, or a single number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor

from dni.cadences.blocks import Block, Piece, Selector, Shapes, split_by_layer, split_in_blocks

__all__ = ["ParameterPartition"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParameterPartition:
    """Subsets T_1..T_S of the parameters: S = `num_subsets`.

    Source: Wolinski 2023 (arXiv 2312.03885), the partition matrix I_{S:P}, which is not formed here.

    Raises:
        ValueError: the subsets miss or repeat a number of a parameter, name one that is not there, or share a name.
    """

    shapes: Shapes
    """Of the parameters, by name."""
    blocks: tuple[Block, ...]
    """The subsets, in order."""
    _subset_of: Mapping[str, int | Tensor] = field(init=False, repr=False)
    """Index of the subset of each parameter; for one that is divided, that of each of its numbers."""

    def __post_init__(self) -> None:
        names = self.names
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"subsets must have names of their own, got {repeated!r} more than once.")
        pieces: dict[str, list[tuple[int, Piece]]] = {name: [] for name in self.shapes}
        for index, block in enumerate(self.blocks):
            if not block.pieces:
                raise ValueError(f"a subset must hold a parameter, but {block.name!r} is empty. Leave it out.")
            for piece in block.pieces:
                if piece.parameter not in pieces:
                    raise ValueError(
                        f"subset {block.name!r} names {piece.parameter!r}, but the parameters are {', '.join(pieces)}."
                    )
                pieces[piece.parameter].append((index, piece))
        found = {name: _subset_of(name, self.shapes[name], own, names) for name, own in pieces.items()}
        object.__setattr__(self, "_subset_of", found)

    @classmethod
    def as_one(cls, shapes: Shapes) -> ParameterPartition:
        """S = 1: one step size for all, as in a line search."""
        return cls(shapes=shapes, blocks=(Block("all", tuple(map(Piece, shapes))),))

    @classmethod
    def by_tensor(cls, shapes: Shapes) -> ParameterPartition:
        """One subset to a tensor, of its name: the paper's "canonical" partition."""
        return cls(shapes=shapes, blocks=tuple(Block(name, (Piece(name),)) for name in shapes))

    @classmethod
    def by_layer(cls, shapes: Shapes) -> ParameterPartition:
        """One subset to a layer: `2.weight` and `2.bias` are of `2`."""
        return cls(shapes=shapes, blocks=tuple(split_by_layer(map(Piece, shapes))))

    @classmethod
    def by_name(cls, shapes: Shapes, names: Mapping[str, Sequence[str]]) -> ParameterPartition:
        """Subsets of your own, or stages: for each name the parameters or modules in it.

        Args:
            shapes: of the parameters.
            names: `{"stage 0": ["0", "2"], "stage 1": ["4.weight", "4.bias"]}`.

        Raises:
            ValueError: as the class; or a name is neither a parameter nor a module that has any.
        """
        return cls(
            shapes=shapes, blocks=tuple(Block(own, _named(shapes, own, within)) for own, within in names.items())
        )

    @classmethod
    def by_selectors(cls, shapes: Shapes, *selectors: Selector) -> ParameterPartition:
        """The blocks that selectors name (`Quadrants("2.weight")`), and what none names as one more, the rest."""
        blocks = [block for selector in selectors for block in selector.select(shapes)]
        rest = split_in_blocks(shapes, blocks)
        return cls(shapes=shapes, blocks=(*blocks, *([rest] if rest.pieces else [])))

    @classmethod
    def by_number(cls, shapes: Shapes) -> ParameterPartition:
        """S = P: every number by itself, as in Newton's method. Of small networks: the Hessian has P x P numbers."""
        pieces = [
            Piece(name, tuple((at, at + 1) for at in place))
            for name, shape in shapes.items()
            for place in product(*map(range, shape))
        ]
        return cls(shapes=shapes, blocks=tuple(Block(piece.name, (piece,)) for piece in pieces))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the subsets, in order."""
        return tuple(block.name for block in self.blocks)

    @property
    def num_subsets(self) -> int:
        """S."""
        return len(self.blocks)

    def spread(self, values: Tensor | Sequence[Tensor]) -> dict[str, Tensor]:
        """One value per subset, (S,) or S scalars, for each parameter: of no axes, or of its shape if it is divided."""
        return {
            name: values[index] if isinstance(index, int) else _picked(values, index)
            for name, index in self._subset_of.items()
        }

    def pieces_of(self, parameter: str) -> list[tuple[int, Piece]]:
        """The subsets that hold part of a parameter, by index, and that part."""
        index = self._subset_of[parameter]
        some = [index] if isinstance(index, int) else sorted(set(index.flatten().tolist()))
        return [(at, piece) for at in some for piece in self.blocks[at].pieces if piece.parameter == parameter]

    def still(self, direction: Mapping[str, Tensor]) -> list[int]:
        """Subsets along which the direction is zero throughout, by index: no step size does anything there."""
        moved: set[int] = set()
        for name, index in self._subset_of.items():
            if isinstance(index, int):
                moved |= {index} if bool(direction[name].any()) else set()
            else:
                moved |= set(index[direction[name].cpu() != 0].tolist())
        return [index for index in range(self.num_subsets) if index not in moved]

    def check(self, what: str, tensors: Mapping[str, Tensor]) -> None:
        """Raise unless there is a tensor of each parameter's shape, and no other.

        Raises:
            ValueError: names or shapes differ.
        """
        if tensors.keys() != self.shapes.keys():
            missed = ", ".join(sorted(self.shapes.keys() - tensors.keys())) or "none"
            more = ", ".join(sorted(tensors.keys() - self.shapes.keys())) or "none"
            raise ValueError(
                f"{what} must have the parameters of the partition: missing {missed}; beyond them {more}. Make the "
                "partition from the shapes of the same parameters."
            )
        for name, tensor in tensors.items():
            if tuple(tensor.shape) != tuple(self.shapes[name]):
                raise ValueError(
                    f"{what} of {name} must be {tuple(self.shapes[name])} as in the partition, got "
                    f"{tuple(tensor.shape)}. Make the partition anew after a change of structure."
                )


def _named(shapes: Shapes, subset: str, names: Iterable[str]) -> tuple[Piece, ...]:
    found: list[Piece] = []
    for name in names:
        own = [Piece(each) for each in shapes if each == name or each.startswith(f"{name}.")]
        if not own:
            raise ValueError(
                f"subset {subset!r} names {name!r}, which is neither a parameter nor a module with parameters; they "
                f"are {', '.join(shapes)}."
            )
        found += own
    return tuple(found)


def _picked(values: Tensor | Sequence[Tensor], index: Tensor) -> Tensor:
    whole = values if isinstance(values, Tensor) else torch.stack(list(values))
    return whole[index.to(whole.device)]


def _subset_of(
    name: str, shape: Sequence[int], pieces: Sequence[tuple[int, Piece]], subsets: Sequence[str]
) -> int | Tensor:
    if len(pieces) == 1 and not pieces[0][1].box:
        return pieces[0][0]
    held = torch.full(tuple(shape), -1)
    for index, piece in pieces:
        if len(piece.box) > len(shape) or any(
            not 0 <= start < stop <= size for (start, stop), size in zip(piece.box, shape, strict=False)
        ):
            raise ValueError(f"subset {subsets[index]!r} has {piece.name}, but {name} is {tuple(shape)}.")
        view = piece.of(held)
        if int(view.max()) >= 0:
            raise ValueError(
                f"{name} must be in one subset only, but {piece.name} of {subsets[index]!r} is in "
                f"{subsets[int(view.max())]!r} too."
            )
        view.fill_(index)
    if not pieces or int(held.min()) < 0:
        missed = "all" if not pieces else str(int((held < 0).sum()))
        raise ValueError(
            f"every parameter must be in a subset, but {missed} of {held.numel()} numbers of {name} are in none. "
            "Name it, or leave it out of the parameters."
        )
    return held
