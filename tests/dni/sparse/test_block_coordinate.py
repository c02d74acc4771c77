"""Do layers take the turns that BAdam and LISA give them?"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dni import InCycles, Layout, RandomLayers

LAYOUT = Layout((("0", "2"), ("4", "6", "8")))


def keyed(name: str, index: int) -> float:
    """Numbers that look drawn."""
    return (hash((name, index)) % 1009) / 1009


def test_one_block_after_the_other_each_for_its_turn() -> None:
    def turns(policy: InCycles) -> list[str]:
        return [next(iter(policy.learning(step, LAYOUT, keyed))) for step in range(0, 20, 2)]

    assert turns(InCycles(every=2, order="ascending")) == ["0", "2", "4", "6", "8"] * 2
    assert turns(InCycles(every=2, order="descending")) == ["8", "6", "4", "2", "0"] * 2
    drawn = turns(InCycles(every=2))
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == ["0", "2", "4", "6", "8"], "each once in every cycle"
    policy = InCycles(every=2, order="ascending", always=("8",))
    assert list(policy.learning(3, LAYOUT, keyed)) == ["8", "2"] and list(policy.learning(8, LAYOUT, keyed)) == [
        "8",
        "0",
    ]
    assert policy.forgets


def test_some_layers_are_drawn_and_the_outer_ones_always_learn() -> None:
    policy = RandomLayers(count=2, every=5)
    policy.check(LAYOUT)
    drawn = [policy.learning(step, LAYOUT, keyed) for step in range(500)]
    assert all(len(each) == 4 and {"0", "8"} <= each.keys() for each in drawn)
    assert all(drawn[step] == drawn[step - step % 5] for step in range(500))
    assert {frozenset(each) - {"0", "8"} for each in drawn} == {
        frozenset(pair) for pair in (("2", "4"), ("2", "6"), ("4", "6"))
    }
    assert not policy.forgets
    assert RandomLayers(count=0, always=("4",)).learning(0, LAYOUT, keyed).keys() == {"4"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InCycles(every=0), "at least 1 step, got 0"),
        (lambda: InCycles(always=("1",)).check(LAYOUT), "no block '1' in the network; its blocks are 0, 2, 4, 6, 8"),
        (lambda: InCycles(always=LAYOUT.blocks).check(LAYOUT), "nothing is left to take turns"),
        (lambda: RandomLayers(count=-1), "got -1 and 20"),
        (lambda: RandomLayers(count=4).check(LAYOUT), "4 layers cannot be drawn from 3"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
