"""Does a source with labels of its own do what it does alone with those labels?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import ConditionalSyntheticGradient, LocalLoss, OwnLabels, Signal, SyntheticGradient, TrueGradient, local_parts
from pipeline import ConfigurationError, Data, prepare
from tests.reference import Problem

H = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
BOTH = torch.stack([torch.arange(6), torch.arange(6) % 3], dim=1)
TRUE = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


def second(target: Tensor) -> Tensor:
    return target[..., 1]


@pytest.mark.parametrize("make", [lambda: LocalLoss(3), lambda: ConditionalSyntheticGradient(3)])
def test_source_with_labels_of_its_own_equals_the_source_on_those_labels(make: Any) -> None:
    own, alone = OwnLabels(make(), second), make()
    assert (own.needs, own.learns_from) == (alone.needs, alone.learns_from)
    for source in (own, alone):
        source.build(H, generator=torch.Generator().manual_seed(2))
    for step in range(3):
        losses = [
            source.learn(H, Signal(step=step, target=target, gradient=TRUE))
            for source, target in ((own, BOTH), (alone, second(BOTH)))
        ]
        assert losses[0] == losses[1]
    found, expected = (
        source.estimate(H, Signal(step=3, target=target)) for source, target in ((own, BOTH), (alone, second(BOTH)))
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_source_without_labels_is_left_alone_and_what_is_local_stays_so() -> None:
    assert OwnLabels(TrueGradient(), second).estimate(H, Signal(step=0, gradient=TRUE)) is TRUE
    assert local_parts(OwnLabels(LocalLoss(3), second)) and not local_parts(OwnLabels(SyntheticGradient(), second))


def test_labels_of_its_own_are_looked_at_before_a_run() -> None:
    problem = Problem(num_stages=2)
    whole = problem.batches()
    whole.target = torch.stack([whole.target, whole.target // 2], dim=1)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target[:, 0], reduction="sum")

    def prepared(num_classes: int) -> None:
        source = OwnLabels(LocalLoss(num_classes), second)
        prepare(problem.config(source, loss=loss, data=lambda: Data(train=whole)))

    prepared(5)
    with pytest.raises(ConfigurationError, match=r"OwnLabels of stage 0 declares 4 classes .* run from 0 to 4"):
        prepared(4)
