"""Do the sync policies reach as far as they say?"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dni import Always, Bernoulli, Every, Never, Piecewise, SyncPolicy


def _reaches(policy: SyncPolicy, steps: int, *, num_stages: int = 4) -> list[int]:
    return [
        policy.reach(step, num_stages=num_stages, generator=torch.Generator().manual_seed(step))
        for step in range(steps)
    ]


def test_never_and_always_do_not_depend_on_the_step() -> None:
    assert _reaches(Never(), 3) == [0, 0, 0]
    assert _reaches(Always(), 3) == [4, 4, 4]
    assert _reaches(Always(top=2), 3) == [2, 2, 2]


def test_every_syncs_at_the_end_of_each_period() -> None:
    assert _reaches(Every(3), 7) == [0, 0, 4, 0, 0, 4, 0]
    assert _reaches(Every(2, top=1), 4) == [0, 1, 0, 1]


def test_bernoulli_draws_the_same_for_the_same_step_and_near_its_probability() -> None:
    policy = Bernoulli(0.3, top=3, otherwise=1)
    reaches = _reaches(policy, 2000)
    assert reaches == _reaches(policy, 2000)
    assert set(reaches) == {1, 3}
    assert reaches.count(3) / 2000 == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (1.0, 4)])
def test_bernoulli_is_certain_at_its_ends(probability: float, expected: int) -> None:
    assert set(_reaches(Bernoulli(probability), 200)) == {expected}


def test_piecewise_changes_policy_at_its_boundaries() -> None:
    assert _reaches(Piecewise((Always(), Never(), Every(2)), (2, 4)), 8) == [4, 4, 0, 0, 0, 4, 0, 4]


@given(
    top=st.none() | st.integers(0, 9),
    otherwise=st.integers(0, 9),
    num_stages=st.integers(1, 6),
    step=st.integers(0, 10_000),
    probability=st.floats(0, 1),
    period=st.integers(1, 9),
)
def test_a_reach_never_exceeds_the_number_of_stages(
    top: int | None, otherwise: int, num_stages: int, step: int, probability: float, period: int
) -> None:
    generator = torch.Generator().manual_seed(step)
    for policy in (Always(top), Every(period, top), Bernoulli(probability, top, otherwise)):
        assert 0 <= policy.reach(step, num_stages=num_stages, generator=generator) <= num_stages


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Every(0), "at least 1 step, got 0"),
        (lambda: Every(1, top=-1), "cannot be negative, got -1"),
        (lambda: Always(top=-2), "cannot be negative, got -2"),
        (lambda: Bernoulli(1.5), r"lie in \[0, 1\], got 1.5"),
        (lambda: Bernoulli(0.5, otherwise=-1), "cannot be negative, got -1"),
        (lambda: Piecewise((Never(),), (3,)), "1 boundaries separate 2 policies, got 1"),
        (lambda: Piecewise((Never(),) * 3, (3, 3)), r"must increase, got \(3, 3\)"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "policy", [Never(), Always(), Every(2), Bernoulli(0.5), Piecewise((Never(), Always()), (3,))], ids=str
)
def test_every_policy_satisfies_the_protocol(policy: SyncPolicy) -> None:
    assert isinstance(policy, SyncPolicy)
