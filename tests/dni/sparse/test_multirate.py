"""Who learns at which step of multirate training?"""

from __future__ import annotations

import pytest

from dni import Layout, Multirate

LAYOUT = Layout((("0", "2"), ("4",)))


def unused(name: str, index: int) -> float:
    raise AssertionError("nothing is drawn")


def test_slow_layers_learn_at_one_step_in_k_and_fast_ones_at_the_others() -> None:
    policy = Multirate(("0", "2"), every=3)
    policy.check(LAYOUT)
    learning = [dict(policy.learning(step, LAYOUT, unused)) for step in range(4)]
    assert learning == [{"0": 1.0, "2": 1.0}, {"4": 1.0}, {"4": 1.0}, {"0": 1.0, "2": 1.0}]
    assert [block.drifts for block in policy.blocks] == [True, True] and not policy.sets_rates


def test_without_drift_the_whole_step_is_taken_at_once() -> None:
    policy = Multirate(("0",), every=3, drift=False)
    assert policy.learning(3, LAYOUT, unused) == {"0": 3.0}
    assert [block.drifts for block in policy.blocks] == [False] and policy.sets_rates


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 and 5"):
        Multirate(())
    with pytest.raises(ValueError, match="got 1 and 1"):
        Multirate(("0",), every=1)
    with pytest.raises(ValueError, match="no block '1' in the network; its blocks are 0, 2, 4"):
        Multirate(("1",)).check(LAYOUT)
    with pytest.raises(ValueError, match="some layer must be fast"):
        Multirate(("0", "2", "4")).check(LAYOUT)
