"""What does a stage's source say of a microbatch, how does it learn, and how good is it?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dni import (
    GradientSource,
    LossGradient,
    Origin,
    Signal,
    Sum,
    carriers,
    compare_gradients,
    compare_parameter_gradients,
)
from pipeline.errors import NotFinite
from pipeline.learners.remapped import remapped
from pipeline.messages import Payload
from pipeline.randomness.keyed import Generators, generator
from pipeline.stages.awaited import Awaited
from pipeline.stages.stash import Forwarded
from pipeline.stages.trace import Recorder

__all__ = ["SourceLearner"]


class SourceLearner:
    """The gradient source of one stage.

    Args:
        source: where the gradient at the stage's output comes from.
        index: position of the stage in the network.
        seed: of every draw.
        generators: what the source draws from.
        recorder: takes down what is done.
        measure_every: one in this many sync steps also compares parameter gradients; 0: none.
    """

    def __init__(
        self,
        source: GradientSource,
        *,
        index: int,
        seed: int,
        generators: Generators,
        recorder: Recorder,
        measure_every: int,
    ) -> None:
        self.source = source
        self.awaited = Awaited.by(source)
        """What it waits for."""
        self.built = False
        """Whether it has seen an output."""
        self.quality: float | None = None
        """The cosine of its gradient with the true one when last compared, in 32 bits; None: never."""
        self._index = index
        self._seed = seed
        self._generators = generators
        self._recorder = recorder
        self._measure_every = measure_every
        self._num_syncs = 0

    def estimate(self, entry: Forwarded) -> Payload | None:
        """What the source says, of all that has come; None: nothing is learned from this step.

        Raises:
            NotFinite: the source is the loss, which is not finite.
        """
        self.build(entry.h)
        with self._generators.at("estimate", entry.step):
            estimate = self.source.estimate(entry.h, _signal(entry))
        if isinstance(self.source, LossGradient):
            self._record_loss(self.source, entry.step)
        return estimate

    def true(self, entry: Forwarded) -> Payload | None:
        """The gradient from above, and where the stage has losses of its own, theirs added."""
        if entry.gradient is None or not isinstance(self.source, Sum):
            return entry.gradient
        self.build(entry.h)
        with self._generators.at("estimate", entry.step):
            return self.source.with_true(entry.h, _signal(entry))

    def learn(self, entry: Forwarded, *, version: int) -> None:
        """Let the source learn from what has come.

        Raises:
            NotFinite: its loss is not finite.
        """
        self._recorder.begin()
        self.build(entry.h)
        with self._generators.at("learn", entry.step):
            loss = self.source.learn(entry.h, _signal(entry))
        self._recorder.end("L", entry.step, version=version)
        self._recorder.measure("source_loss", entry.step, loss)
        if not math.isfinite(loss):
            raise NotFinite(f"the loss of the source of stage {self._index} is {loss} at step {entry.step}.")

    def compare(self, entry: Forwarded, *, holders: Sequence[Tensor]) -> None:
        """At a sync step, set what the source would have said beside the truth. Training is not disturbed.

        `holders` are the tensors that hold the parameter gradients of the microbatch's graph.
        """
        if not entry.sync or not self.built or not self.source.learns_from or not entry.has_all(self.awaited.to_act):
            return
        true, estimate = self.true(entry), self.estimate(entry)
        assert entry.graph is not None and true is not None
        self._num_syncs += 1
        if estimate is None:
            return
        values = compare_gradients(carriers(estimate), carriers(true))
        self.quality = torch.tensor(values["gradient_cosine"], dtype=torch.float32).item()
        if self._measure_every and (self._num_syncs - 1) % self._measure_every == 0:
            with self._generators.at("backward", entry.step):
                values |= compare_parameter_gradients(
                    carriers(entry.graph), holders, used=carriers(estimate), true=carriers(true)
                )
        for name, value in values.items():
            self._recorder.measure(name, entry.step, value)

    def remap(self, origin: Origin, *, axis: int, step: int) -> None:
        """The units of h are others from here on. The source of before is left as it is.

        Raises:
            TypeError, ValueError: it cannot follow.
        """
        if self.built:
            self.source = remapped(
                self.source, origin, axis=axis, draws=generator(self._seed, f"source/{self._index}", step)
            )

    def state_dict(self) -> dict[str, Any]:
        """What the source has learned, and what it was worth."""
        return {
            "source": self.source.state_dict() if self.built else None,
            "num_syncs": self._num_syncs,
            "quality": self.quality,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        if state["source"] is not None:
            self.source.load_state_dict(state["source"])
            self.built = True
        self._num_syncs = state["num_syncs"]
        self.quality = state.get("quality")  # not in the oldest checkpoints

    def build(self, h: Payload) -> None:
        """Make the source's parameters, for an output like this; once."""
        if not self.built:
            with self._generators.forked():
                self.source.build(h, generator=generator(self._seed, f"source/{self._index}", 0))
            self.built = True

    def _record_loss(self, source: LossGradient, step: int) -> None:
        assert source.latest is not None
        loss = source.latest
        if not math.isfinite(loss):
            raise NotFinite(f"the loss is {loss}. Lower the learning rate or clip (clip_norm).")
        self._recorder.measure("loss", step, loss)


def _signal(entry: Forwarded) -> Signal:
    """What is known of a microbatch by now."""
    return Signal(
        step=entry.step,
        target=entry.target,
        gradient=entry.gradient,
        error=entry.error,
        loss=entry.loss,
        goes_on=entry.goes_on,
    )
