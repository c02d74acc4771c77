"""Are messages plain values?"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pipeline.messages import Activation, Drain, Gradient, Message, Send, Stop

MESSAGES: list[Message] = [
    Activation(step=1, h=torch.ones(2, 3)),
    Gradient(step=1, value=None),
    Drain(step=1),
    Stop(step=1),
]


@pytest.mark.parametrize("message", [*MESSAGES, Send(0, Stop(step=1))], ids=lambda m: type(m).__name__)
def test_messages_cannot_be_changed(message: Message | Send) -> None:
    for field in dataclasses.fields(message):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(message, field.name, 0)
    with pytest.raises((AttributeError, TypeError)):
        message.other = 0  # type: ignore[union-attr]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_message_knows_its_step(message: Message) -> None:
    assert message.step == 1


def test_defaults_are_those_of_an_ordinary_training_step() -> None:
    message = Activation(step=0, h=torch.ones(1))
    assert (message.target, message.reach, message.version, message.generation, message.training) == (
        None, 0, 0, 0, True,
    )  # fmt: skip
    assert not Gradient(step=0, value=None).exact
    assert not Drain(step=0).save and not Drain(step=0).finish
