"""Into which boxes does a parameter fall, when every box is to hold entries of one kind?

The boxes before a change cut each axis into segments, so a grid of cells knows all there is to know. A change makes
another grid of it: runs of indices that come from one segment, or are new, are its cells. Cells of one label are then
joined to boxes again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, product

import torch
from torch import Tensor

from dni.cadences.blocks import Box, box_name
from dni.structure.followers import AxisChange
from dni.structure.origin import NEW

__all__ = ["check_cover", "follow_boxes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Neighbouring indices of an axis after a change that come from one segment of it before."""

    start: int
    stop: int
    segment: int
    """`NEW`: they were not there."""


def follow_boxes(
    boxes: Sequence[tuple[Box, int]], changes: Sequence[AxisChange], *, parameter: str, shape: Sequence[int], new: int
) -> list[tuple[Box, int]]:
    """The boxes after a change, each with its label: that of where its entries come from.

    Args:
        boxes: hold each element of the parameter once, before the change; each with its label, 0 or more.
        changes: one for each axis that changes, of this shape.
        parameter: its name, for errors.
        shape: before the change.
        new: the label of entries that were not there. Boxes that had it and new ones may be joined.

    Returns:
        Boxes that hold each element once, in the order of their first elements. Axes behind the last one that is cut
        are left out. Of all covers by boxes this is a small one, found greedily along the last axis first, so that
        rows stay in one piece: deterministic, not always the smallest.

    Raises:
        ValueError: the boxes before do not cover the parameter once.
    """
    cuts = _cuts(boxes, parameter=parameter, shape=shape)
    grid = _label_grid(boxes, cuts, parameter=parameter, shape=shape)
    origins = {change.axis % len(shape): change.origin.sources for change in changes}
    runs: list[list[_Run]] = []
    for axis, own in enumerate(cuts):
        along = list(_runs(origins[axis], own)) if axis in origins else _unchanged(own, int(shape[axis]))
        fresh = torch.tensor([place for place, run in enumerate(along) if run.segment == NEW], dtype=torch.long)
        grid = grid.index_select(axis, torch.tensor([max(run.segment, 0) for run in along]))
        grid = grid.index_fill(axis, fresh, new)
        runs.append(along)
    return [(_box(cells, runs), label) for cells, label in _join(grid)]


def check_cover(boxes: Sequence[Box], *, parameter: str, shape: Sequence[int]) -> None:
    """Raise `ValueError` if these boxes do not hold each element of a parameter of this shape once."""
    labelled = [(box, 0) for box in boxes]
    _label_grid(labelled, _cuts(labelled, parameter=parameter, shape=shape), parameter=parameter, shape=shape)


def _cuts(boxes: Sequence[tuple[Box, int]], *, parameter: str, shape: Sequence[int]) -> list[list[int]]:
    """Where the segments of each axis begin."""
    cuts: list[set[int]] = [{0} for _ in shape]
    for box, _ in boxes:
        if len(box) > len(shape) or any(
            not 0 <= start < stop <= size for (start, stop), size in zip(box, shape, strict=False)
        ):
            raise ValueError(
                f"a piece must lie within its parameter, but {box_name(parameter, box)} is a box of {tuple(shape)}. "
                "Give the pieces and the shape from before the change."
            )
        for own, (start, stop), size in zip(cuts, box, shape, strict=False):
            own.update(cut for cut in (start, stop) if cut < size)
    return [sorted(own) for own in cuts]


def _label_grid(
    boxes: Sequence[tuple[Box, int]], cuts: Sequence[Sequence[int]], *, parameter: str, shape: Sequence[int]
) -> Tensor:
    """The label of each cell, (segments of the first axis, of the second, ...)."""
    grid = torch.zeros([len(own) for own in cuts], dtype=torch.long)
    count = torch.zeros_like(grid)
    for box, label in boxes:
        cells = tuple(
            slice(own.index(start), own.index(stop) if stop in own else len(own))
            for own, (start, stop) in zip(cuts, box, strict=False)
        )
        grid[cells] = label
        count[cells] += 1
    if not bool((count == 1).all()):
        names = ", ".join(box_name(parameter, box) for box, _ in boxes) or "none"
        raise ValueError(
            f"the pieces of a parameter must hold each of its elements once, but of {parameter} {tuple(shape)} the "
            f"pieces {names} {'leave some out' if bool((count == 0).any()) else 'hold some twice'}. Give all of its "
            "pieces, from before the change."
        )
    return grid


def _runs(sources: Sequence[int], cuts: Sequence[int]) -> Iterator[_Run]:
    segments = [NEW if source == NEW else bisect_right(cuts, source) - 1 for source in sources]
    start = 0
    for segment, own in groupby(segments):
        stop = start + len(list(own))
        yield _Run(start=start, stop=stop, segment=segment)
        start = stop


def _unchanged(cuts: Sequence[int], size: int) -> list[_Run]:
    return [_Run(start=a, stop=b, segment=segment) for segment, (a, b) in enumerate(pairwise([*cuts, size]))]


def _join(grid: Tensor) -> Iterator[tuple[tuple[tuple[int, int], ...], int]]:
    """Boxes of cells with their labels: from the first cell that is left, as far as its label goes, axis by axis."""
    left = grid.clone()
    for cell in product(*(range(size) for size in grid.shape)):
        label = int(left[cell])
        if label < 0:
            continue
        cells = [(place, place + 1) for place in cell]
        for axis in reversed(range(grid.dim())):
            while cells[axis][1] < grid.shape[axis] and bool((left[_slab(cells, axis)] == label).all()):
                cells[axis] = cells[axis][0], cells[axis][1] + 1
        left[tuple(slice(*own) for own in cells)] = -1
        yield tuple(cells), label


def _slab(cells: Sequence[tuple[int, int]], axis: int) -> tuple[slice, ...]:
    """The neighbours of a box of cells along an axis."""
    after = cells[axis][1]
    return tuple(slice(after, after + 1) if own == axis else slice(*cells[own]) for own in range(len(cells)))


def _box(cells: Sequence[tuple[int, int]], runs: Sequence[Sequence[_Run]]) -> Box:
    """The indices that a box of cells holds."""
    box = [(own[first].start, own[last - 1].stop) for own, (first, last) in zip(runs, cells, strict=True)]
    while box and box[-1] == (0, runs[len(box) - 1][-1].stop):
        box.pop()
    return tuple(box)
