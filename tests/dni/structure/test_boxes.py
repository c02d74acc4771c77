"""Do boxes after a change hold what each entry's source held?"""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dni import NEW, AxisChange, Origin
from dni.cadences.blocks import Box, Piece
from dni.structure.boxes import check_cover, follow_boxes


def _split(box: Box, random: Random, *, depth: int) -> list[Box]:
    """Cuts across, again and again."""
    axis = random.randrange(len(box))
    start, stop = box[axis]
    if depth == 0 or stop - start < 2:
        return [box]
    cut = random.randrange(start + 1, stop)
    return [
        part
        for side in ((start, cut), (cut, stop))
        for part in _split((*box[:axis], side, *box[axis + 1 :]), random, depth=depth - 1)
    ]


@settings(max_examples=40, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_each_entry_has_the_label_of_its_source(random: Random) -> None:
    shape = [random.randint(1, 5) for _ in range(random.randint(1, 3))]
    boxes = [(box, random.randrange(3)) for box in _split(tuple((0, size) for size in shape), random, depth=3)]
    labels = torch.zeros(shape, dtype=torch.long)
    changes = []
    for box, label in boxes:
        Piece("w", box).of(labels).fill_(label)
    for axis, size in enumerate(shape):
        if random.random() < 0.7:
            sources = tuple(random.choice([NEW, *range(size)]) for _ in range(random.randint(1, 6)))
            origin = Origin(num_old=size, sources=sources, scale=(1.0,) * len(sources))
            changes.append(AxisChange(axis=axis - len(shape), origin=origin, side="producer"))
            picked = labels.index_select(axis, torch.tensor(sources).clamp(min=0))
            labels = picked.index_fill(axis, torch.tensor(origin.fresh, dtype=torch.long), 0)
    found = follow_boxes(boxes, changes, parameter="w", shape=shape, new=0)
    count = torch.zeros_like(labels)
    for box, label in found:
        assert (Piece("w", box).of(labels) == label).all()
        Piece("w", box).of(count).add_(1)
    assert (count == 1).all()
    check_cover([box for box, _ in found], parameter="w", shape=labels.shape)
    assert len(found) <= labels.numel() and (len(found) == 1) == bool((labels == labels.flatten()[0]).all())


def test_boxes_are_joined_to_few_that_are_contiguous_where_they_can_be() -> None:
    rows = AxisChange(axis=0, origin=Origin.insert([1, 4], num_old=3), side="producer")
    found = follow_boxes([((), 1)], [rows], parameter="w", shape=(3, 4), new=0)
    assert found == [(((0, 1),), 1), (((1, 2),), 0), (((2, 4),), 1), (((4, 5),), 0)]
    columns = AxisChange(axis=1, origin=Origin.append(1, num_old=4), side="consumer")
    halves: list[tuple[Box, int]] = [(((0, 1), (0, 4)), 1), (((1, 3),), 1)]
    assert follow_boxes(halves, [columns], parameter="w", shape=(3, 4), new=0) == [
        (((0, 3), (0, 4)), 1),
        (((0, 3), (4, 5)), 0),
    ]
    assert follow_boxes(halves, [], parameter="w", shape=(3, 4), new=0) == [((), 1)]
    assert follow_boxes([((), 1)], [], parameter="scale", shape=(), new=0) == [((), 1)]


def test_boxes_that_leave_something_out_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of w \(3, 4\) the pieces w\[0:3,0:2\] leave some out"):
        check_cover([((0, 3), (0, 2))], parameter="w", shape=(3, 4))
    with pytest.raises(ValueError, match="the pieces none leave some out"):
        check_cover([], parameter="w", shape=(3, 4))
