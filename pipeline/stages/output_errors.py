"""Who hears from the last stage what the loss says, and in which order?

Some sources ask for the error at the network's output, or for the loss of each sample. Their stages are listeners: the
last stage tells each of them, and nobody else, of every microbatch that came up to it. In order, whatever the order of
the backward passes: so whoever hears of a step knows that earlier ones it has not heard of were dropped on their way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.messages import OutputError, Send
from pipeline.stages.stash import NOTHING, Parts

__all__ = ["Listener", "OutputErrors"]


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A stage whose source asks for what the last stage has to say."""

    stage: int
    parts: Parts
    """What it asks for: error, loss, or both."""

    def share(self, message: OutputError) -> OutputError:
        """What it is sent of `message`: what it asks for, and nothing else."""
        return OutputError(
            step=message.step,
            value=message.value if "error" in self.parts else None,
            loss_per_sample=message.loss_per_sample if "loss" in self.parts else None,
        )


class OutputErrors:
    """What the last stage has yet to say.

    Args:
        listeners: the stages to be told; none: there is nothing to say.
    """

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self._listeners = listeners
        self._untold: dict[int, OutputError | None] = {}
        """By step, those that came up; None: what is to be said is not known yet."""
        self.parts: Parts = NOTHING.union(*(listener.parts for listener in listeners))
        """What is asked for by any of them."""

    def expect(self, step: int) -> None:
        """A microbatch has come up."""
        if self._listeners:
            self._untold[step] = None

    def tell(self, message: OutputError) -> Iterator[Send]:
        """Say this, as soon as all before it is said."""
        if not self._listeners:
            return
        self._untold[message.step] = message
        while self._untold and (first := next(iter(self._untold.values()))) is not None:
            del self._untold[first.step]
            for listener in self._listeners:
                yield Send(listener.stage, listener.share(first))
