"""Does the stash know what is in flight, what is held and what blocks?"""

from __future__ import annotations

import pytest
import torch

from pipeline.messages import Gradient, OutputError
from pipeline.stages.stash import GRADIENT, OUTPUT_ERROR, Forwarded, Stash, StashPolicy


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
        assert stash.take(step).step == step
    assert (len(stash), stash.num_held, stash.holds, stash.most_held) == (0, 0, False, 2)


def test_step_that_is_not_in_flight_cannot_be_answered() -> None:
    stash = Stash("hold")
    stash.put(_forwarded(3))
    with pytest.raises(AssertionError, match=r"a gradient answers step 4, in flight: \[3\]"):
        stash.take(4)
    stash.take(3)
    with pytest.raises(AssertionError, match="answers step 3"):
        stash.take(3)


def test_what_is_released_is_in_flight_and_not_held() -> None:
    stash = Stash("hold")
    stash.put(_forwarded(0, held=True, sync=True))
    for _ in range(2):
        stash.release(stash.find(0))
    assert (len(stash), stash.num_held, stash.holds_sync, stash.most_held) == (1, 0, False, 1)


def test_those_up_to_a_step_that_have_not_heard_from_the_last_stage_are_found_in_order() -> None:
    stash = Stash("hold")
    for step in range(4):
        stash.put(_forwarded(step))
        stash.find(step).awaited |= OUTPUT_ERROR
    stash.find(1).tell(OutputError(step=1))
    assert [entry.step for entry in stash.find_untold(2)] == [0, 2]
    assert stash.expects_error
    stash.find(0).answer(Gradient(step=0, value=None, dropped=True))
    assert not stash.expects_error, "what was dropped never comes to the last stage"
    stash.take(0)
    assert not stash.expects_error, "of step 1 a gradient is to come"


def test_what_has_come_without_a_value_is_not_there() -> None:
    entry = _forwarded(0)
    entry.awaited |= OUTPUT_ERROR
    entry.answer(Gradient(step=0, value=None))
    entry.tell(OutputError(step=0, value=torch.ones(1, 2)))
    assert entry.has_come(GRADIENT | OUTPUT_ERROR) and not entry.awaited
    assert entry.has_all(frozenset({"error"})) and not entry.has_all(GRADIENT) and not entry.has_all(OUTPUT_ERROR)


def test_step_cannot_be_in_flight_twice() -> None:
    stash = Stash("hold")
    stash.put(_forwarded(3))
    with pytest.raises(AssertionError, match="step 3 is already in flight"):
        stash.put(_forwarded(3))
