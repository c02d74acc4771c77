"""How does a user name blocks: layers, parameters, and parts of one weight?

Names are global, as in the unsplit model's state dict.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dni.cadences.blocks import Block, Box, Piece, Shapes, box_name

__all__ = ["Channels", "Columns", "Heads", "Layer", "Parameter", "Quadrants", "Rows", "Slice"]

_MOST_NAMES = 40
"""Valid names that an error lists."""


@dataclass(frozen=True)
class Layer:
    """All parameters of a module as one block: `Layer("features.3")`, or of a container, `Layer("features")`."""

    name: str
    """Of the module."""

    def select(self, shapes: Shapes) -> list[Block]:
        return [Block(self.name, tuple(map(Piece, _of_layer(self.name, shapes))))]


@dataclass(frozen=True)
class Parameter:
    """One parameter: `Parameter("2.bias")`."""

    name: str

    def select(self, shapes: Shapes) -> list[Block]:
        _shape(self.name, shapes)
        return [Block(self.name, (Piece(self.name),))]


@dataclass(frozen=True)
class Slice:
    """One box of a parameter: `Slice("2.weight", ((0, 64), (0, 128)))`."""

    name: str
    """Of the parameter."""
    box: Box
    """(start, stop) for each of its leading axes; those left out are whole."""

    def select(self, shapes: Shapes) -> list[Block]:
        return [_boxed(self.name, self.box, shapes)]


@dataclass(frozen=True)
class Rows:
    """Parts of a parameter along its first axis, as equal as can be: output features of a linear layer's weight."""

    name: str
    """Of the parameter."""
    parts: int = 2

    def select(self, shapes: Shapes) -> list[Block]:
        return [_boxed(self.name, (cut,), shapes) for cut in _cuts(self.name, shapes, axis=0, parts=self.parts)]


@dataclass(frozen=True)
class Columns:
    """Parts of a parameter along its second axis: input features of a linear layer's weight."""

    name: str
    """Of the parameter."""
    parts: int = 2

    def select(self, shapes: Shapes) -> list[Block]:
        cuts = _cuts(self.name, shapes, axis=1, parts=self.parts)
        rows = (0, shapes[self.name][0])
        return [_boxed(self.name, (rows, cut), shapes) for cut in cuts]


@dataclass(frozen=True)
class Quadrants:
    """The quarters of a weight, by halves of its first two axes: top left, top right, bottom left, bottom right."""

    name: str
    """Of the parameter."""

    def select(self, shapes: Shapes) -> list[Block]:
        rows, columns = (_cuts(self.name, shapes, axis=axis, parts=2) for axis in (0, 1))
        return [_boxed(self.name, (row, column), shapes) for row in rows for column in columns]


@dataclass(frozen=True)
class Channels:
    """Groups of a layer's output channels: of each of its parameters, along the first axis (weight, bias, scale).

    For layers whose parameters all begin with the output channel: `nn.Conv2d`, `nn.Linear`, a normalisation.
    """

    name: str
    """Of the module."""
    groups: int

    def select(self, shapes: Shapes) -> list[Block]:
        names = _of_layer(self.name, shapes)
        if len({shapes[name][:1] for name in names}) > 1 or not shapes[names[0]]:
            raise ValueError(
                f"channels are the first axis of every parameter of {self.name}, but those have the shapes "
                f"{', '.join(f'{name} {shapes[name]}' for name in names)}. Name one of them, with Rows or Columns."
            )
        cuts = _cuts(names[0], shapes, axis=0, parts=self.groups)
        return [
            Block(box_name(self.name, (cut,)), tuple(p for n in names for p in _boxed(n, (cut,), shapes).pieces))
            for cut in cuts
        ]


@dataclass(frozen=True)
class Heads:
    """The heads of an attention layer's projection, a block each.

    Heads lie one after another on the first axis of what makes queries, keys or values, and on the second of what
    mixes their outputs (`axis=1`); the `in_proj_weight` of `nn.MultiheadAttention` packs three (`packed=3`).
    """

    name: str
    """Of the parameter."""
    num_heads: int
    axis: int = 0
    """0 or 1."""
    packed: int = 1
    """Projections one after another on the axis; a head has a piece of each."""

    def __post_init__(self) -> None:
        if self.axis not in (0, 1) or self.packed < 1:
            raise ValueError(f"axis must be 0 or 1, packed at least 1, got {self.axis} and {self.packed}.")

    def select(self, shapes: Shapes) -> list[Block]:
        cuts = _cuts(self.name, shapes, axis=self.axis, parts=self.num_heads * self.packed)
        if len({stop - start for start, stop in cuts}) > 1:
            raise ValueError(
                f"{self.num_heads * self.packed} equal heads must fit on axis {self.axis} of {self.name}, "
                f"{shapes[self.name]}."
            )
        before = ((0, shapes[self.name][0]),) if self.axis else ()
        return [
            Block(
                f"{self.name}[head {head}]",
                tuple(
                    piece
                    for cut in cuts[head :: self.num_heads]
                    for piece in _boxed(self.name, (*before, cut), shapes).pieces
                ),
            )
            for head in range(self.num_heads)
        ]


def _of_layer(name: str, shapes: Shapes) -> list[str]:
    found = [each for each in shapes if each.startswith(f"{name}.")]
    if not found:
        layers = dict.fromkeys(
            ".".join(parts[:depth]) for parts in (each.split(".") for each in shapes) for depth in range(1, len(parts))
        )
        raise ValueError(f"no layer with parameters that learn is called {name!r}; there are {_listed(layers)}.")
    return found


def _shape(name: str, shapes: Shapes) -> tuple[int, ...]:
    if name not in shapes:
        raise ValueError(f"no parameter that learns is called {name!r}; there are {_listed(shapes)}.")
    return shapes[name]


def _boxed(name: str, box: Box, shapes: Shapes) -> Block:
    """One box of a parameter; the whole parameter where it leaves nothing out."""
    shape = _shape(name, shapes)
    if len(box) > len(shape) or not all(0 <= a < b <= size for (a, b), size in zip(box, shape, strict=False)):
        raise ValueError(
            f"a slice must lie within its parameter and hold something: {box_name(name, box)} of shape {shape}. "
            "Give 0 <= start < stop <= size for each axis."
        )
    whole = all(stop - start == size for (start, stop), size in zip(box, shape, strict=False))
    piece = Piece(name, () if whole else tuple((start, stop) for start, stop in box))
    return Block(piece.name, (piece,))


def _cuts(name: str, shapes: Shapes, *, axis: int, parts: int) -> list[tuple[int, int]]:
    """(start, stop) of each part of an axis."""
    shape = _shape(name, shapes)
    size = shape[axis] if axis < len(shape) else 0
    if not 1 <= parts <= size:
        raise ValueError(
            f"axis {axis} of {name}, of shape {shape}, cannot be cut into {parts} parts: there must be at least 1, and "
            f"at most {size}, its size."
        )
    return [(part * size // parts, (part + 1) * size // parts) for part in range(parts)]


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f", and {more} more" if more > 0 else "") if names else "none"
