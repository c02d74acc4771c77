"""Which microbatches does a stage with synthetic inputs run, and what does it still owe for them?

Such a stage hears of each microbatch twice: an `Input` straight from the first stage, on which it runs forward without
waiting, and the `Activation` from below, which its input source learns from and which it then answers. The Input comes
first, and says where the stage has to wait after all: at a sync that reaches below it, and as long as the input source
has seen no activation and cannot be built. Steps are taken in order, and what is no training step (an evaluation, a
drain) keeps its place among them: an Input says how many such messages the first stage took before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.messages import Activation, Drain, Gradient, Input, Message, Payload, Stop

__all__ = ["Imagined", "SyntheticInputs", "is_other"]


@dataclass(slots=True)
class Imagined:
    """A microbatch that was run on a synthetic input, and whose activation is still to come."""

    x: Payload
    """The network's input."""
    answer: Gradient | None = None
    """What the stage below will be answered, once that is known."""


class SyntheticInputs:
    """What a stage with synthetic inputs has to pair up."""

    def __init__(self) -> None:
        self._imagined: dict[int, Imagined] = {}
        self._awaited: Input | None = None

    def __len__(self) -> int:
        """Microbatches run, or to be run, whose activation is still to come."""
        return len(self._imagined) + (self._awaited is not None)

    @property
    def waits(self) -> bool:
        """Whether the next step is one that the stage takes as received."""
        return self._awaited is not None

    def imagine(self, message: Input) -> None:
        """The stage runs on a synthetic input at this step."""
        assert message.x is not None
        self._imagined[message.step] = Imagined(message.x)

    def wait(self, message: Input) -> None:
        """The stage takes this step as it is received."""
        self._awaited = message

    def received(self, message: Activation) -> Payload | None:
        """The activation of a step that was waited for has come; the network's input, if there is to be learned."""
        assert self._awaited is not None and self._awaited.step == message.step
        awaited, self._awaited = self._awaited, None
        return awaited.x

    def is_pair(self, message: Message) -> bool:
        """Whether this is the activation of a step that was run already."""
        return isinstance(message, Activation) and message.training and message.step in self._imagined

    def pair(self, message: Activation) -> Imagined:
        """The activation of a step that was run has come."""
        return self._imagined.pop(message.step)

    def keep(self, answer: Gradient) -> bool:
        """Keep the answer to an activation that has not come yet; False: it has, and the answer may go."""
        imagined = self._imagined.get(answer.step)
        if imagined is not None:
            imagined.answer = answer
        return imagined is not None


def is_other(message: Message) -> bool:
    """Whether this comes from below and is no training step: of an evaluation, a drain, the stop."""
    match message:
        case Activation(training=training):
            return not training
        case _:
            return isinstance(message, Drain | Stop)
