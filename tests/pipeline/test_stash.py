"""Does the stash know what is in flight, what is held and what blocks?"""

from __future__ import annotations

import pytest
import torch

from pipeline.stash import Forwarded, Stash, StashPolicy


def _forwarded(step: int, *, held: bool = False, sync: bool = False) -> Forwarded:
    return Forwarded(step=step, x=None, h=torch.ones(1), target=None, version=0, learns=True, held=held, sync=sync)


@pytest.mark.parametrize("policy", ["hold", "recompute", "weights"])
def test_stash_counts_what_is_in_flight_and_held(policy: StashPolicy) -> None:
    stash = Stash(policy)
    kinds = [(False, False), (True, False), (True, True)]
    for step, (held, sync) in enumerate(kinds):
        stash.put(_forwarded(step, held=held, sync=sync))
    hold = policy == "hold"
    assert (len(stash), stash.num_held, stash.holds, stash.holds_sync) == (3, 2, hold, hold)
    assert stash.take(2).step == 2
    assert (len(stash), stash.num_held, stash.holds, stash.holds_sync) == (2, 1, hold, False)
    for step in (1, 0):
        assert stash.take(step).held is kinds[step][0]
    assert (len(stash), stash.num_held, stash.holds, stash.most_held) == (0, 0, False, 2)


def test_step_that_is_not_in_flight_cannot_be_answered() -> None:
    stash = Stash("hold")
    stash.put(_forwarded(3))
    with pytest.raises(AssertionError, match=r"a gradient answers step 4, in flight: \[3\]"):
        stash.take(4)
    stash.take(3)
    with pytest.raises(AssertionError, match="answers step 3"):
        stash.take(3)


def test_step_cannot_be_in_flight_twice() -> None:
    stash = Stash("hold")
    stash.put(_forwarded(3))
    with pytest.raises(AssertionError, match="step 3 is already in flight"):
        stash.put(_forwarded(3))
