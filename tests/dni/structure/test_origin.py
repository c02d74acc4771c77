"""Does an origin say where each index comes from, alone, composed and expanded?"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dni import NEW, Origin


@st.composite
def _origins(draw: st.DrawFn, num_old: int) -> Origin:
    sources = draw(st.lists(st.integers(NEW, num_old - 1), min_size=1, max_size=6))
    scale = [1.0 if source == NEW else draw(st.sampled_from([1.0, 0.5, 0.25])) for source in sources]
    return Origin(num_old=num_old, sources=tuple(sources), scale=tuple(scale))


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[Origin, Origin]:
    first = draw(_origins(draw(st.integers(1, 5))))
    return first, draw(_origins(first.num_new))


def _naive(rows: list[Any], origin: Origin, fill: Any) -> list[Any]:
    return [
        fill if source == NEW else [scale * value for value in rows[source]]
        for source, scale in zip(origin.sources, origin.scale, strict=True)
    ]


@settings(max_examples=25, deadline=None)
@given(_pairs())
def test_composed_origins_do_what_one_after_the_other_does(pair: tuple[Origin, Origin]) -> None:
    first, second = pair
    rows = [[float(3 * i + k) for k in range(3)] for i in range(first.num_old)]
    both = first.then(second)
    expected = _naive(_naive(rows, first, [0.0] * 3), second, [0.0] * 3)
    tensor = torch.tensor(rows, dtype=torch.float64)
    assert second.apply(first.apply(tensor, 0), 0).tolist() == expected == both.apply(tensor, 0).tolist()
    assert both.apply(tensor.T, -1).T.tolist() == expected
    assert Origin.from_json(json.loads(json.dumps(both.to_json()))) == both


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5).flatmap(_origins), st.integers(1, 3))
def test_expanded_origin_moves_the_entries_of_a_flattened_axis_with_their_channel(origin: Origin, block: int) -> None:
    channels = torch.arange(origin.num_old * block * 2.0).view(2, origin.num_old, block)
    flat = origin.expand(block).apply(channels.flatten(1), 1, 7.0)
    assert torch.equal(flat, origin.apply(channels, 1, 7.0).flatten(1))


def test_constructors_say_what_they_are_called() -> None:
    assert Origin.keep([2, 0], num_old=3).sources == (2, 0)
    assert Origin.append(2, num_old=2).sources == (0, 1, NEW, NEW)
    assert Origin.insert([0, 3], num_old=2).sources == (NEW, 0, 1, NEW)
    assert Origin.repeat(2, num_old=2) == Origin(num_old=2, sources=(0, 0, 1, 1), scale=(0.5,) * 4)
    copies = Origin.duplicate([1, 1, 0], num_old=3)
    assert copies.sources == (0, 1, 2, 1, 1, 0)
    assert copies.scale == (1 / 2, 1 / 3, 1.0, 1 / 3, 1 / 3, 1 / 2)
    assert copies.raised(2).scale[0] == 1 / 4 and not copies.raised(0).is_scaled
    assert Origin.identity(3).is_identity and not Origin.keep([1, 0], num_old=2).is_identity
    twice = copies.then(Origin.duplicate([0], num_old=6))
    assert (twice.scale[0], twice.scale[5], twice.scale[6]) == (1 / 4, 1 / 2, 1 / 4), "uneven shares compose"


def test_new_entries_take_a_tensor_and_the_old_tensor_stays_apart() -> None:
    old = torch.ones(2, 2)
    new = Origin.insert([1], num_old=2).apply(old, 1, torch.tensor([[5.0], [6.0]]))
    assert new.tolist() == [[1, 5, 1], [1, 6, 1]]
    Origin.identity(2).apply(old, 0).zero_()
    assert old.tolist() == [[1, 1], [1, 1]]
    mask = torch.tensor([True, False])
    assert Origin.append(1, num_old=2).apply(mask, 0, 1).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Origin(num_old=2, sources=(2,), scale=(1.0,)), r"old index in \[0, 2\), or -1 for a new one; got 2"),
        (lambda: Origin(num_old=2, sources=(-2,), scale=(1.0,)), r"got -2"),
        (lambda: Origin(num_old=2, sources=(-1,), scale=(0.5,)), r"nothing to scale: its scale must be 1, got 0\.5"),
        (lambda: Origin(num_old=2, sources=(0, 0), scale=(0.5, -1.0)), r"finite and above 0, got -1\.0"),
        (lambda: Origin(num_old=2, sources=(0,), scale=(float("nan"),)), "finite and above 0, got nan"),
        (lambda: Origin(num_old=2, sources=(0,), scale=()), "1 sources and 0 scales"),
        (lambda: Origin.keep([], num_old=2), "at least one index .* got 2 before and 0 after. Remove the layer"),
        (lambda: Origin.keep([0, 0], num_old=2), r"kept once, got \[0\] again"),
        (lambda: Origin.keep([-1], num_old=2), "use Origin.append or insert"),
        (lambda: Origin.append(-1, num_old=2), "0 or more, got -1"),
        (lambda: Origin.insert([3, 3], num_old=2), r"differ and lie in \[0, 4\), got \[3, 3\]"),
        (lambda: Origin.repeat(0, num_old=2), "once or more, got 0 times"),
        (lambda: Origin.duplicate([-1], num_old=2), "indices to copy must lie in"),
        (lambda: Origin.identity(2).then(Origin.identity(3)), "at 2 indices; the later one is of 3"),
        (lambda: Origin.identity(2).expand(0), "one entry or more"),
        (lambda: Origin.identity(2).apply(torch.ones(2), 1), r"no axis 1 in a tensor of shape \(2,\)"),
        (
            lambda: Origin.identity(2).apply(torch.ones(3, 2), 0),
            r"of 2 indices, but axis 0 of the tensor \(3, 2\) has 3",
        ),
        (lambda: Origin.append(1, num_old=2).apply(torch.ones(2), 0, torch.ones(2)), r"shape \(1,\), got \(2,\)"),
        (lambda: Origin.duplicate([0], num_old=2).apply(torch.ones(2, dtype=torch.bool), 0), r"Copy this one"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
