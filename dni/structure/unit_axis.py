"""Where do units lie along an axis of a tensor, and how does the tensor follow when they change?

one entry each                      0 1 2 3
channels, flattened (block 2)       0 0 1 1 2 2 3 3
behind others (offset 3)            - - - 0 1 2 3
three runs: query, key and value    0 1 2 3 0 1 2 3 0 1 2 3
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dni.structure.followers import AxisChange, Side
from dni.structure.origin import NEW, Origin

__all__ = ["UnitAxis", "UnitTensor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitAxis:
    """Which entries of an axis are those of which unit; entries may be left that belong to none."""

    axis: int
    """Counted from 0."""
    block: int = 1
    """Neighbouring entries that make one unit: positions of a flattened channel, channels of a head."""
    offsets: tuple[int, ...] = (0,)
    """Where each run of all the units begins, ascending."""

    def __post_init__(self) -> None:
        if self.axis < 0 or self.block < 1 or not self.offsets or self.offsets[0] < 0:
            raise ValueError(
                "units lie along an axis counted from 0, in one run or more, as one entry each or more; got axis "
                f"{self.axis}, offsets {self.offsets}, block {self.block}."
            )

    @staticmethod
    def found(units: Sequence[int], *, num_units: int, axis: int = 0) -> UnitAxis | None:
        """From the unit of each entry, -1 where there is none; None if they are not in order, in whole runs."""
        first = next((index for index, unit in enumerate(units) if unit >= 0), len(units))
        ends = (index for index in range(first, len(units)) if units[index] != 0)
        block = next(ends, len(units)) - first
        if not block:
            return None
        run = [unit for unit in range(num_units) for _ in range(block)]
        offsets, index = [], first
        while index < len(units):
            if units[index] < 0:
                index += 1
            elif list(units[index : index + len(run)]) == run:
                offsets.append(index)
                index += len(run)
            else:
                return None
        return UnitAxis(axis=axis, block=block, offsets=tuple(offsets))

    def expand(self, origin: Origin, length: int) -> Origin:
        """The change of the whole axis, of `length` entries before, when the units change; others stay.

        Raises:
            ValueError: the units of the origin do not lie within the axis.
        """
        run = origin.expand(self.block)
        sources: list[int] = []
        scale: list[float] = []
        position = 0
        for offset in self.offsets:
            if not position <= offset <= length - run.num_old:
                raise ValueError(
                    f"runs of {origin.num_old} units of {self.block} entries each must lie within the {length} entries "
                    f"of axis {self.axis}, got runs that begin at {self.offsets}."
                )
            sources += [*range(position, offset), *[NEW if own == NEW else own + offset for own in run.sources]]
            scale += [*[1.0] * (offset - position), *run.scale]
            position = offset + run.num_old
        rest = range(position, length)
        return Origin(num_old=length, sources=(*sources, *rest), scale=(*scale, *[1.0] * len(rest)))

    def sum_by_unit(self, values: Tensor, *, num_units: int) -> Tensor:
        """What all entries of each unit add up to, (U,)."""
        of_entries = values.movedim(self.axis, 0).flatten(1).sum(1)
        runs = [of_entries.narrow(0, offset, num_units * self.block) for offset in self.offsets]
        return torch.stack([run.view(num_units, self.block).sum(1) for run in runs]).sum(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTensor:
    """A tensor that has units along one of its axes."""

    tensor: Tensor
    """Detached."""
    at: UnitAxis
    side: Side
    """Whether it computes the units or reads them."""
    fresh: float = 0.0
    """What a new unit begins with."""
    bound: float = 0.0
    """A new unit's entries are drawn from [-bound, bound], about `fresh`."""

    def change(self, origin: Origin) -> AxisChange:
        """The change of this tensor when the units change by an origin."""
        expanded = self.at.expand(origin, self.tensor.shape[self.at.axis])
        return AxisChange(axis=self.at.axis, origin=expanded, side=self.side)

    def shape_of(self, count: int) -> tuple[int, ...]:
        """The shape of what belongs to `count` units, and to nothing else."""
        shape = list(self.tensor.shape)
        shape[self.at.axis] = count * self.at.block * len(self.at.offsets)
        return tuple(shape)
