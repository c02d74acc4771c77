"""Where does each new index of an axis come from?

An origin is a value: it can be printed, compared, composed, sent in a message and kept in a checkpoint. Whatever has
the axis follows it: weights, gradients, optimiser state, statistics, activations.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["NEW", "Origin", "along"]

NEW = -1
"""The source of an index that was not there before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """How the indices of one axis follow from those of the same axis before a change."""

    num_old: int
    """Length of the axis before."""
    sources: tuple[int, ...]
    """The old index of each new index; -1 (`NEW`) for one that was not there."""
    scale: tuple[float, ...]
    """The share of the old index that each new one takes over, above 0: 1 for one that is kept, 1/n for each of n
    copies, 1 for a new one. What reads the axis (outgoing weights) is multiplied by it; what computes the axis
    (incoming weights, biases) keeps its values and sees gradients multiplied by it."""

    def __post_init__(self) -> None:
        if self.num_old < 1 or not self.sources:
            raise ValueError(
                f"an axis must hold at least one index before and after a change, got {self.num_old} before and "
                f"{len(self.sources)} after. Remove the layer instead of its last unit."
            )
        if len(self.scale) != len(self.sources):
            raise ValueError(
                f"each new index must have a source and a scale, got {len(self.sources)} sources and "
                f"{len(self.scale)} scales."
            )
        if not self._is_sound():
            for index, (source, scale) in enumerate(zip(self.sources, self.scale, strict=True)):
                self._check(index, source, scale)

    @property
    def num_new(self) -> int:
        """Length of the axis after."""
        return len(self.sources)

    @property
    def fresh(self) -> tuple[int, ...]:
        """The new indices that were not there before, in order."""
        if NEW not in self.sources:
            return ()
        return tuple(index for index, source in enumerate(self.sources) if source == NEW)

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return self.sources == tuple(range(self.num_old)) and not self.is_scaled

    @property
    def is_scaled(self) -> bool:
        """Whether any scale is other than 1."""
        return self.scale.count(1.0) < len(self.scale)

    @staticmethod
    def identity(num_old: int) -> Origin:
        """Every index stays."""
        return _unscaled(num_old, range(num_old))

    @staticmethod
    def keep(indices: Iterable[int], *, num_old: int) -> Origin:
        """These old indices stay, in this order; the others go.

        Raises:
            ValueError: an index is out of range, or named twice.
        """
        sources = tuple(indices)
        if repeated := [index for index, count in Counter(sources).items() if count > 1]:
            raise ValueError(f"an index is kept once, got {repeated} again. To copy units, use Origin.duplicate.")
        if NEW in sources:
            raise ValueError(
                f"indices to keep must lie in [0, {num_old}), got {NEW}. For new ones, use Origin.append or insert."
            )
        return _unscaled(num_old, sources)

    @staticmethod
    def append(count: int, *, num_old: int) -> Origin:
        """Every index stays, and `count` new ones follow."""
        if count < 0:
            raise ValueError(f"the number of new indices must be 0 or more, got {count}. To remove, use Origin.keep.")
        return _unscaled(num_old, (*range(num_old), *[NEW] * count))

    @staticmethod
    def insert(places: Iterable[int], *, num_old: int) -> Origin:
        """Every index stays in order, around new ones at these places of the *new* axis.

        Raises:
            ValueError: a place is named twice, or lies past the end of the new axis.
        """
        fresh = list(places)
        num_new = num_old + len(fresh)
        if len(set(fresh)) < len(fresh) or not all(0 <= place < num_new for place in fresh):
            raise ValueError(f"places of new indices must differ and lie in [0, {num_new}), got {fresh}.")
        old = iter(range(num_old))
        return _unscaled(num_old, [NEW if place in fresh else next(old) for place in range(num_new)])

    @staticmethod
    def renew(indices: Iterable[int], *, num_old: int) -> Origin:
        """Every index stays in its place; these begin anew.

        Raises:
            ValueError: an index is out of range.
        """
        fresh = set(indices)
        if beyond := sorted(index for index in fresh if not 0 <= index < num_old):
            raise ValueError(f"indices that begin anew must lie in [0, {num_old}), got {beyond}.")
        return _unscaled(num_old, [NEW if index in fresh else index for index in range(num_old)])

    @staticmethod
    def duplicate(indices: Iterable[int], *, num_old: int) -> Origin:
        """Every index stays, and a copy of each of `indices` follows; the copies of one share it evenly.

        An index may be named more than once: it then has more copies.
        """
        sources = (*range(num_old), *indices)
        if NEW in sources:
            raise ValueError(f"indices to copy must lie in [0, {num_old}), got {NEW}. For new ones, use Origin.append.")
        copies = Counter(sources)
        return Origin(num_old=num_old, sources=sources, scale=tuple(1.0 / copies[source] for source in sources))

    @staticmethod
    def repeat(count: int, *, num_old: int) -> Origin:
        """Every index becomes `count` neighbours that share it evenly."""
        if count < 1:
            raise ValueError(f"an index must be there once or more, got {count} times. To remove, use Origin.keep.")
        return Origin(
            num_old=num_old,
            sources=tuple(index for index in range(num_old) for _ in range(count)),
            scale=(1.0 / count,) * (num_old * count),
        )

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Origin:
        """What `to_json` wrote."""
        return Origin(num_old=value["num_old"], sources=tuple(value["sources"]), scale=tuple(value["scale"]))

    def to_json(self) -> dict[str, Any]:
        """Numbers and lists of numbers."""
        return {"num_old": self.num_old, "sources": list(self.sources), "scale": list(self.scale)}

    def then(self, later: Origin) -> Origin:
        """This change and a later one as one: what was new in between is new, shares multiply.

        Raises:
            ValueError: the later change is of an axis of another length.
        """
        if later.num_old != self.num_new:
            raise ValueError(
                f"a change must begin where the one before it ended, at {self.num_new} indices; the later one is of "
                f"{later.num_old}. Compose them in the order in which they were made."
            )
        sources = tuple(NEW if source == NEW else self.sources[source] for source in later.sources)
        scale = tuple(
            1.0 if source == NEW else self.scale[between] * scale
            for source, between, scale in zip(sources, later.sources, later.scale, strict=True)
        )
        return Origin(num_old=self.num_old, sources=sources, scale=scale)

    def expand(self, block: int) -> Origin:
        """The same change of an axis on which each index has become `block` neighbours.

        Channels (C, H, W) flattened to C*H*W are expanded by H*W.
        """
        if block < 1:
            raise ValueError(f"an index must become one entry or more on the expanded axis, got {block}.")
        return Origin(
            num_old=self.num_old * block,
            sources=tuple(
                NEW if source == NEW else source * block + offset for source in self.sources for offset in range(block)
            ),
            scale=tuple(scale for scale in self.scale for _ in range(block)),
        )

    def raised(self, power: int) -> Origin:
        """The same sources, each scale to this power; 0 for what is copied as it is, 2 for squares."""
        return replace(self, scale=tuple(scale**power for scale in self.scale)) if self.is_scaled else self

    def apply(self, tensor: Tensor, axis: int, fill: float | Tensor = 0.0) -> Tensor:
        """Make the tensor that follows, by sources and scale.

        Args:
            tensor: of `num_old` indices along `axis`; left as it is. Scaled if its origin is: use `raised(0)` for
                what is copied only (activations, statistics, masks).
            axis: counted from the end if negative.
            fill: values of the new indices: a number, or a tensor as long as `fresh` along `axis`.

        Returns:
            A tensor of `num_new` indices along `axis` that shares no memory with the old one. An entry whose scale is 1
            is copied bit for bit.

        Raises:
            ValueError: there is no such axis, its length is not `num_old`, the fill does not fit, or a tensor that is
                not floating point would be scaled.
        """
        axis = self.check_axis(tensor.shape, axis)
        if self.is_scaled and not tensor.is_floating_point():
            raise ValueError(
                f"only floating-point tensors can be scaled, got {tensor.dtype}. Copy this one: origin.raised(0)."
            )
        index = torch.tensor([max(source, 0) for source in self.sources], device=tensor.device)
        result = tensor.index_select(axis, index)
        if self.is_scaled:
            scale = torch.tensor(self.scale, dtype=torch.float64).to(result)
            result.mul_(along(scale, axis, num_axes=result.dim()))
        if not self.fresh:
            return result
        places = torch.tensor(self.fresh, device=tensor.device)
        if not isinstance(fill, Tensor):
            return result.index_fill_(axis, places, fill)
        needed = (*result.shape[:axis], len(self.fresh), *result.shape[axis + 1 :])
        if fill.shape != needed:
            raise ValueError(
                f"the values of the {len(self.fresh)} new indices along axis {axis} must have the shape {needed}, got "
                f"{tuple(fill.shape)}."
            )
        return result.index_copy_(axis, places, fill.to(result))

    def check_axis(self, shape: Sequence[int], axis: int) -> int:
        """The axis counted from 0.

        Raises:
            ValueError: a tensor of this shape has no such axis, or another number of indices along it.
        """
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"there is no axis {axis} in a tensor of shape {tuple(shape)}.")
        if shape[axis] != self.num_old:
            raise ValueError(
                f"the origin is of {self.num_old} indices, but axis {axis} of the tensor {tuple(shape)} has "
                f"{shape[axis]}. Give the tensor from before the change, or expand the origin to a flattened axis."
            )
        return axis % len(shape)

    def _is_sound(self) -> bool:
        """Whether `_check` finds nothing; by whole tuples: an event makes many origins of thousands of units."""
        if set(map(type, self.sources)) != {int} or not NEW <= min(self.sources) <= max(self.sources) < self.num_old:
            return False
        if not (all(map(math.isfinite, self.scale)) and min(self.scale) > 0):
            return False
        return NEW not in self.sources or all(self.scale[index] == 1.0 for index in self.fresh)

    def _check(self, index: int, source: int, scale: float) -> None:
        if not isinstance(source, int) or not NEW <= source < self.num_old:
            raise ValueError(
                f"the source of new index {index} must be an old index in [0, {self.num_old}), or {NEW} for a new one; "
                f"got {source!r}."
            )
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"the scale of new index {index} must be finite and above 0, got {scale!r}.")
        if source == NEW and scale != 1.0:
            raise ValueError(
                f"new index {index} has no source, so there is nothing to scale: its scale must be 1, got {scale!r}. "
                "Scale the values that it is filled with."
            )


def along(values: Tensor, axis: int, *, num_axes: int) -> Tensor:
    """One value per index of an axis, (C,), shaped to be broadcast against a tensor of `num_axes` axes."""
    return values.view(*[1] * axis, -1, *[1] * (num_axes - axis - 1))


def _unscaled(num_old: int, sources: Iterable[int]) -> Origin:
    own = tuple(sources)
    return Origin(num_old=num_old, sources=own, scale=(1.0,) * len(own))
