"""Which layers does layer-wise sparse SGD let learn, and at which rate?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dni import Layout, Only, TopOrAll

LAYOUT = Layout((("0", "2"), ("4",), (), ("6", "8")))


def drawn(*steps: int) -> Callable[[str, int], float]:
    """Draws by which exactly these steps are full ones, at a probability of one half."""
    return lambda name, step: 0.1 if step in steps else 0.9


def test_top_learns_at_every_step_and_all_of_it_at_those_drawn() -> None:
    policy = TopOrAll(0.5, top=2)
    learning = [list(policy.learning(step, LAYOUT, drawn(1, 4))) for step in range(5)]
    top, everything = ["6", "8"], ["0", "2", "4", "6", "8"]
    assert learning == [top, everything, top, top, everything]


@pytest.mark.parametrize(
    ("chosen", "top"),
    [
        ({"top": "4"}, {"4", "6", "8"}),
        ({"top": 3}, {"4", "6", "8"}),
        ({"top": 1, "unit": "stages"}, {"6", "8"}),
        ({"top": 3, "unit": "stages"}, {"4", "6", "8"}),
        ({"top": 5}, {"0", "2", "4", "6", "8"}),
    ],
)
def test_top_is_counted_in_layers_or_stages_or_begins_at_a_name(chosen: dict[str, Any], top: set[str]) -> None:
    policy = TopOrAll(0.0, **chosen)
    policy.check(LAYOUT)
    assert policy.learning(3, LAYOUT, drawn()).keys() == top


def test_rescaling_is_of_the_layers_below_the_top() -> None:
    def rates(rescale: Any) -> list[float]:
        policy = TopOrAll(0.5, top=2, rescale=rescale)
        found = [policy.learning(step, LAYOUT, drawn(0, 3, 4, 7)) for step in (0, 3, 4, 7)]
        assert all(each["6"] == each["8"] == 1.0 for each in found)
        assert all(each["0"] == each["2"] == each["4"] for each in found)
        return [each["0"] for each in found]

    assert rates("leave") == [1.0, 1.0, 1.0, 1.0]
    assert rates("inverse") == [2.0, 2.0, 2.0, 2.0]
    assert rates("elapsed") == [1.0, 3.0, 1.0, 3.0], "steps since the last full one; before the first, since the start"


def test_only_names_layers_and_stages() -> None:
    policy = Only(layers=("2",), stages=(3,))
    policy.check(LAYOUT)
    assert policy.learning(0, LAYOUT, drawn()) == {"2": 1.0, "6": 1.0, "8": 1.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopOrAll(1.5), r"in \[0, 1\], got 1.5"),
        (lambda: TopOrAll(-0.1), r"in \[0, 1\], got -0.1"),
        (lambda: TopOrAll(0.5, top=0), "at least 1, got 0"),
        (lambda: TopOrAll(0.0, rescale="inverse"), "which is 0. Use leave"),
        (lambda: Only(), "it got neither"),
        (lambda: Only(("1",)).check(LAYOUT), "no block '1' in the network; its blocks are 0, 2, 4, 6, 8"),
        (lambda: Only(stages=(4,)).check(LAYOUT), "no stage 4; the stages are 0 to 3"),
        (lambda: TopOrAll(0.5, top="9").check(LAYOUT), "no block '9' in the network; its blocks are 0, 2, 4, 6, 8"),
        (lambda: TopOrAll(0.5, top=6).check(LAYOUT), "top is 6, but the network has 5 layers: 0, 2, 4, 6, 8"),
        (lambda: TopOrAll(0.5, top=5, unit="stages").check(LAYOUT), "the network has 4 stages"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
