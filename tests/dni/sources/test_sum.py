"""Is a sum of sources what each says, added, and does each act and learn as soon as it can and no sooner?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dni import (
    ConditionalSyntheticGradient,
    DirectFeedbackAlignment,
    LocalLoss,
    Members,
    MixedGradient,
    Need,
    NoGradient,
    Shadow,
    Signal,
    Sum,
    SyntheticGradient,
    TrueGradient,
    local_parts,
)

H = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(6) % 3
TRUE = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
WHOLE = Signal(step=0, target=TARGET, gradient=TRUE)


def built(*sources: Any) -> Sum:
    total = Sum(*sources)
    total.build(H, generator=torch.Generator().manual_seed(2))
    for _ in range(3):
        total.learn(H, WHOLE)
    return total


def each(total: Sum, *positions: int, signal: Signal = WHOLE) -> Tensor:
    return torch.stack([total.sources[position].estimate(H, signal) for position in positions]).sum(0)  # type: ignore


def test_what_sources_say_is_added_and_what_says_nothing_adds_nothing() -> None:
    total = built(LocalLoss(3), SyntheticGradient(), NoGradient(), TrueGradient())
    torch.testing.assert_close(total.estimate(H, WHOLE), each(total, 0, 1, 3))
    assert Sum(NoGradient(), NoGradient()).estimate(H, WHOLE) is None


def test_sum_waits_for_all_that_any_source_waits_for() -> None:
    total = Sum(LocalLoss(3), Sum(SyntheticGradient(), DirectFeedbackAlignment(3)))
    assert total.needs == Need.TARGET | Need.ERROR and total.learns_from == Need.TARGET | Need.GRADIENT
    assert [type(source).__name__ for source in total.sources] == [
        "LocalLoss",
        "SyntheticGradient",
        "DirectFeedbackAlignment",
    ]
    with pytest.raises(ValueError, match="one source or more"):
        Sum()


def test_where_nothing_has_come_from_above_only_what_asks_for_nothing_there_acts_and_learns() -> None:
    total = built(LocalLoss(3), SyntheticGradient(), TrueGradient())
    nothing = Signal(step=3, target=TARGET)
    torch.testing.assert_close(total.estimate(H, nothing), each(total, 0, 1, signal=nothing))
    ends_here = Signal(step=3, target=TARGET, goes_on=False)
    torch.testing.assert_close(total.estimate(H, ends_here), each(total, 0, signal=ends_here))
    for signal in (nothing, ends_here):
        before = total.sources[1].estimate(H, signal), each(total, 0)
        total.learn(H, signal)
        torch.testing.assert_close(total.sources[1].estimate(H, signal), before[0], rtol=0, atol=0)  # type: ignore
        assert not torch.equal(each(total, 0), before[1])


def test_true_gradient_takes_the_place_of_all_that_ask_above() -> None:
    total = built(LocalLoss(3), SyntheticGradient(), MixedGradient(ConditionalSyntheticGradient(3)))
    torch.testing.assert_close(total.with_true(H, WHOLE), TRUE + each(total, 0))
    with pytest.raises(ValueError, match="has no gradient"):
        total.with_true(H, Signal(step=0, target=TARGET))


def test_members_of_a_tuple_are_added_one_by_one() -> None:
    h: Members = (H, torch.arange(6), H[:, :2].clone())
    gradient: Members = (TRUE, None, TRUE[:, :2])
    total = Sum(TrueGradient(), TrueGradient()).estimate(h, Signal(step=0, gradient=gradient))
    assert isinstance(total, tuple) and total[1] is None
    torch.testing.assert_close((total[0], total[2]), (2 * TRUE, 2 * TRUE[:, :2]))


def test_local_is_what_asks_for_nothing_from_above_neither_to_act_nor_to_learn() -> None:
    own = LocalLoss(3)
    assert local_parts(own) == (own,)
    assert local_parts(SyntheticGradient()) == () == local_parts(Shadow(SyntheticGradient(), acting=LocalLoss(3)))
    assert local_parts(Sum(SyntheticGradient(), own)) == (own,)
