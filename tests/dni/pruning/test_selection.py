"""Does what is selected have the lowest scores, exactly as many as asked for, and does no layer lose everything?"""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dni import Count, Share, select_lowest
from dni.pruning.selection import lowest

SCORES = {"a": torch.tensor([[0.5, 0.1], [0.9, 0.3]]), "b": torch.tensor([0.2, 0.4]), "c": torch.tensor([0.05])}


def _places(masks: dict[str, Tensor]) -> set[tuple[str, int]]:
    return {(name, i) for name, mask in masks.items() for i, on in enumerate(mask.flatten().tolist()) if on}


def _naive(scores: dict[str, Tensor], count: int, floor: int) -> set[tuple[str, int]]:
    """One at a time, the lowest that may go."""
    left = {name: list(enumerate(value.flatten().tolist())) for name, value in scores.items()}
    order = sorted(
        ((score, position, name, i) for position, name in enumerate(left) for i, score in left[name]),
        key=lambda entry: (entry[0], entry[1], entry[3]),
    )
    gone: set[tuple[str, int]] = set()
    for _, _, name, i in order:
        if len(gone) < count and len(left[name]) - sum(n == name for n, _ in gone) > floor:
            gone.add((name, i))
    return gone


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    floor=st.integers(1, 3),
    values=st.lists(st.integers(0, 4), min_size=24, max_size=24),
    share=st.floats(0, 1),
)
def test_selection_is_that_of_a_loop_that_takes_one_at_a_time(
    sizes: list[int], floor: int, values: list[int], share: float
) -> None:
    flat = torch.tensor(values[: sum(sizes)], dtype=torch.float64)
    scores = {f"{i}": part for i, part in enumerate(torch.split(flat, sizes))}
    free = sum(max(0, size - floor) for size in sizes)
    count = int(share * free)
    assert _places(select_lowest(scores, Count(count), floor=floor)) == _naive(scores, count, floor)


def test_scopes_rank_everything_each_tensor_or_groups() -> None:
    assert _places(select_lowest(SCORES, Count(3))) == {("a", 1), ("b", 0), ("a", 3)}
    two = {name: SCORES[name] for name in "ab"}
    assert _places(select_lowest(two, Share(0.5), scope="tensor")) == {("a", 1), ("a", 3), ("b", 0)}
    groups = {"a": "one", "b": "two", "c": "two"}
    assert _places(select_lowest(SCORES, Count(1), scope=groups)) == {("a", 1), ("b", 0)}
    assert select_lowest(SCORES, Share(0.3))["a"].shape == (2, 2) and select_lowest({}, Share(0.0)) == {}


def test_a_layer_pruned_to_nothing_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"1 of 1 cannot go from c: at most 0 can, because 1 of each of c \(1\)"):
        select_lowest(SCORES, Share(0.6), scope="tensor")
    with pytest.raises(ValueError, match=r"7 of 7 cannot go from the network: at most 4 .* a \(4\), b \(2\), c \(1\)"):
        select_lowest(SCORES, Share(1.0))
    with pytest.raises(ValueError, match="at least 1 of each layer must stay, got a floor of 0"):
        select_lowest(SCORES, Share(0.1), floor=0)


def test_what_cannot_be_ranked_is_refused() -> None:
    for value in (-0.1, 1.01, float("nan")):
        with pytest.raises(ValueError, match=re.escape(f"a share must lie in [0, 1], got {value}")):
            Share(value)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Count(-1)
    with pytest.raises(ValueError, match="must be finite to be ranked, found nan among those of a"):
        select_lowest({"a": torch.tensor([1.0, float("nan")])}, Count(1))
    with pytest.raises(ValueError, match="every tensor of scores must have a group, found none for b; there are a"):
        select_lowest(SCORES, Count(1), scope={"a": "one"})
    with pytest.raises(ValueError, match="a scope is 'network', 'tensor', or a group for each name, got 'layer'"):
        select_lowest(SCORES, Count(1), scope="layer")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["spread", "columns", "equal", "whole"])
@pytest.mark.parametrize("count", [1, 40, 5_000, 30_000, 39_999])
def test_lowest_of_many_are_those_of_a_stable_sort_whatever_a_sample_says(kind: str, count: int) -> None:
    drawn = torch.Generator().manual_seed(0)
    scores = {
        "spread": torch.randn(40_000, generator=drawn),
        "columns": (torch.arange(40_000) % 17 != 0).float() + torch.rand(40_000, generator=drawn),
        "equal": torch.zeros(40_000),
        "whole": torch.randint(0, 5, (40_000,), generator=drawn).float(),
    }[kind]
    assert torch.equal(
        lowest(-scores, count).nonzero().flatten(), (-scores).sort(stable=True).indices[:count].sort().values
    )
    assert torch.equal(
        lowest(scores, count).nonzero().flatten(), scores.sort(stable=True).indices[:count].sort().values
    )
