"""When does each layer stop, and how fast does it learn until then?"""

from __future__ import annotations

import math

import pytest

from dni import FreezeOut, Layout

LAYOUT = Layout((("a", "b"), ("c",)))


def unused(name: str, index: int) -> float:
    raise AssertionError("nothing is drawn")


def test_rates_fall_to_nothing_from_the_input_up() -> None:
    policy = FreezeOut(steps=1000, first=0.5)
    assert [policy.end(index, 3) for index in range(3)] == [0.125, 0.421875, 1.0]
    first = policy.learning(0, LAYOUT, unused)
    assert first == pytest.approx({"a": 8.0, "b": 1 / 0.421875, "c": 1.0})
    assert policy.learning(124, LAYOUT, unused)["a"] == pytest.approx(4 * (1 + math.cos(math.pi * 0.124 / 0.125)))
    assert list(policy.learning(125, LAYOUT, unused)) == ["b", "c"]
    assert list(policy.learning(422, LAYOUT, unused)) == ["c"]
    assert policy.learning(999, LAYOUT, unused)["c"] == pytest.approx((1 + math.cos(math.pi * 0.999)) / 2)


def test_every_layer_moves_as_far_if_scaled() -> None:
    for scaled, expected in ((True, [1.0, 1.0, 1.0]), (False, [0.125, 0.421875, 1.0])):
        policy = FreezeOut(steps=8000, first=0.5, scaled=scaled)
        rates = [policy.learning(step, LAYOUT, unused) for step in range(8000)]
        sums = [sum(each.get(name, 0.0) for each in rates) / 4000 for name in "abc"]
        assert sums == pytest.approx(expected, rel=2e-3)


def test_linear_times() -> None:
    policy = FreezeOut(steps=100, first=0.5, cubic=False)
    assert [policy.end(index, 3) for index in range(3)] == [0.5, 0.75, 1.0]


@pytest.mark.parametrize(("steps", "first"), [(0, 0.5), (10, 0.0), (10, 1.5)])
def test_what_cannot_be_is_refused(steps: int, first: float) -> None:
    with pytest.raises(ValueError, match=rf"in \(0, 1\], got {steps} and {first}"):
        FreezeOut(steps=steps, first=first)
