"""What does a stage run on instead of what the one below sends, and how does it learn to make that up?"""

from __future__ import annotations

import math
from typing import Any

from dni import InputSource, Origin
from pipeline.errors import NotFinite
from pipeline.learners.remapped import remapped
from pipeline.messages import Payload
from pipeline.randomness.keyed import Generators, generator
from pipeline.stages.trace import Recorder

__all__ = ["InputLearner"]


class InputLearner:
    """The input source of one stage.

    Args:
        source: makes the stage's input of the network's.
        index: position of the stage in the network.
        seed: of every draw.
        generators: what the source draws from.
        recorder: takes down what is done.
    """

    def __init__(
        self, source: InputSource, *, index: int, seed: int, generators: Generators, recorder: Recorder
    ) -> None:
        self.source = source
        """Makes it up."""
        self._index = index
        self._seed = seed
        self._generators = generators
        self._recorder = recorder
        self.built = False
        """Whether it can make an input: it has seen one that it stands for."""

    def imagine(self, x: Payload, *, step: int, version: int) -> Payload:
        """The stage's input, made of the network's."""
        self._recorder.begin()
        with self._generators.at("imagine", step):
            h = self.source.estimate(x)
        self._recorder.end("I", step, version=version)
        return h

    def learn(self, x: Payload, h: Payload, *, step: int, version: int) -> None:
        """Let the source learn from what it stands for.

        Raises:
            NotFinite: its loss is not finite.
        """
        self._recorder.begin()
        if not self.built:
            with self._generators.forked():
                self.source.build(x, h, generator=generator(self._seed, f"input/{self._index}", 0))
            self.built = True
        with self._generators.at("learn input", step):
            loss = self.source.learn(x, h, step=step)
        self._recorder.end("N", step, version=version)
        self._recorder.measure("input_loss", step, loss)
        if not math.isfinite(loss):
            raise NotFinite(f"the loss of the synthetic input of stage {self._index} is {loss} at step {step}.")

    def remap(self, origin: Origin, *, axis: int, step: int) -> None:
        """The units that it makes up are others from here on. The source of before is left as it is.

        Raises:
            TypeError, ValueError: it cannot follow.
        """
        if self.built:
            self.source = remapped(
                self.source, origin, axis=axis, draws=generator(self._seed, f"input/{self._index}", step)
            )

    def state_dict(self) -> dict[str, Any] | None:
        """What the source has learned; None: it is not built."""
        return self.source.state_dict() if self.built else None

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from `state`."""
        if state is not None:
            self.source.load_state_dict(state)
            self.built = True
