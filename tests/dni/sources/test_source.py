"""Does the vocabulary of gradient sources hold?"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import dni
from dni import GradientSource, Need, Signal


@pytest.mark.parametrize(
    "source",
    [
        dni.TrueGradient(),
        dni.LossGradient(nn.CrossEntropyLoss()),
        dni.SyntheticGradient(),
        dni.ConditionalSyntheticGradient(10),
        dni.Shadow(dni.SyntheticGradient()),
    ],
    ids=lambda source: type(source).__name__,
)
def test_every_source_satisfies_the_protocol_before_it_is_built(source: GradientSource) -> None:
    assert isinstance(source, GradientSource)
    assert isinstance(source, nn.Module)


def test_a_module_without_needs_is_not_a_gradient_source() -> None:
    assert not isinstance(nn.Linear(2, 2), GradientSource)


def test_needs_combine_and_contain_each_other() -> None:
    both = Need.GRADIENT | Need.TARGET
    assert Need.TARGET in both and Need.ERROR not in both
    assert not Need.NONE and Need.NONE | Need.TARGET == Need.TARGET


def test_a_signal_cannot_be_changed_after_it_was_sent() -> None:
    signal = Signal(step=3)
    assert (signal.target, signal.gradient, signal.error, signal.loss, signal.input) == (None,) * 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        signal.target = torch.zeros(1)


def test_all_public_names_exist_once() -> None:
    assert all(hasattr(dni, name) for name in dni.__all__)
    assert len(dni.__all__) == len(set(dni.__all__))
