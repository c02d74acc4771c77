"""Does the stash know what is in flight, what is held and what blocks?"""

from __future__ import annotations

import itertools

import pytest
import torch

from pipeline.stash import Forwarded, Stash


def _forwarded(step: int, *, held: bool = False, blocks: bool = False) -> Forwarded:
    return Forwarded(step=step, x=None, h=torch.ones(1), target=None, version=0, learns=True, held=held, blocks=blocks)


def test_stash_counts_what_is_in_flight_held_and_blocking() -> None:
    stash = Stash()
    kinds = list(itertools.product((False, True), repeat=2))
    for step, (held, blocks) in enumerate(kinds):
        stash.put(_forwarded(step, held=held, blocks=blocks))
    assert (len(stash), stash.num_held, stash.num_blocking) == (4, 2, 2)
    assert stash.take(3).step == 3
    assert (len(stash), stash.num_held, stash.num_blocking) == (3, 1, 1)
    for step in (1, 0, 2):
        assert stash.take(step).held is kinds[step][0]
    assert (len(stash), stash.num_held, stash.num_blocking) == (0, 0, 0)


def test_step_that_is_not_in_flight_cannot_be_answered() -> None:
    stash = Stash()
    stash.put(_forwarded(3))
    with pytest.raises(AssertionError, match=r"a gradient answers step 4, in flight: \[3\]"):
        stash.take(4)
    stash.take(3)
    with pytest.raises(AssertionError, match="answers step 3"):
        stash.take(3)


def test_step_cannot_be_in_flight_twice() -> None:
    stash = Stash()
    stash.put(_forwarded(3))
    with pytest.raises(AssertionError, match="step 3 is already in flight"):
        stash.put(_forwarded(3))
