"""How does a chain behave in time, if nothing is computed?

The stages are the real ones (`pipeline.stages.stage`); a stand-in for the learner does each operation by letting the
clock run, counts versions, and makes no tensors. So messages, order, waiting and staleness are those of the real run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dni import Pace, Window
from pipeline.clock import Clock
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import stage_settings
from pipeline.data.feed import Batch, Feed, FeedSettings
from pipeline.messages import Activation, Input, OutputError, Payload, Reshape
from pipeline.stages.awaited import Awaited
from pipeline.stages.participants import Participants
from pipeline.stages.stage import Stage
from pipeline.stages.stash import Forwarded, StashPolicy
from pipeline.stages.trace import Recorder

__all__ = ["TimedLearner", "build_timed_stage", "make_timed_feed"]

_CPU = torch.device("cpu")
_NOTHING: tuple[()] = ()
"""The payload of every message between neighbours."""
_NO_SAMPLES = torch.empty(0)
"""What the last stage says of every microbatch."""


class TimedLearner:
    """Takes a learner's time, and does none of its work.

    Args:
        recorder: takes down what is done; its clock says what that costs.
        awaited: what the source waits for.
        acts: whether it gives a gradient at all.
        updates: whether there are parameters to update.
        stash: what a real learner would keep from a forward; "recompute" takes a second forward.
        pace: the cadences of the stage's blocks; by default an update is due at every step. What they would measure is
            not there to be measured.
        participants: say which blocks learn at a step; None: all of them do.
    """

    device = _CPU
    quality = None
    loss = None
    generation = generation_below = 0
    can_imagine = True

    def __init__(
        self,
        recorder: Recorder,
        *,
        awaited: Awaited | None = None,
        acts: bool = True,
        updates: bool = True,
        stash: StashPolicy = "hold",
        pace: Pace | None = None,
        participants: Participants | None = None,
    ) -> None:
        self.awaited = awaited or Awaited()
        self.version = 0
        self.phase = "start"
        self._recorder = recorder
        self._acts, self._updates = acts, updates
        self._recomputes = stash == "recompute"
        self._pace = pace or Pace()
        self._participants = participants

    @property
    def module(self) -> nn.Module:
        """Nothing."""
        return nn.Identity()

    def imagine(self, message: Input) -> Payload:
        """Take the time of making a synthetic input."""
        self._recorder.begin()
        self._recorder.end("I", message.step, version=self.version)
        return _NOTHING

    def learn_input(self, x: Payload, message: Activation) -> None:
        """Take the time of learning to."""
        self._recorder.begin()
        self._recorder.end("N", message.step, version=self.version)

    def forward(
        self, message: Activation, *, learns: bool, held: bool, sync: bool, asks: bool, wanted: bool, num_due: int = 0
    ) -> Forwarded:
        """Take a forward's time."""
        recorder, step = self._recorder, message.step
        recorder.begin()
        forward_s = recorder.end("F", step, version=self.version, reach=message.reach)
        recorder.totals.num_samples += 1
        if sync:
            recorder.mark("S", step, version=self.version, reach=message.reach)
        return Forwarded(
            step=step,
            x=_NOTHING,
            h=_NOTHING,
            target=None,
            version=self.version,
            learns=learns,
            held=held,
            sync=sync,
            asks=asks,
            wanted=wanted,
            forward_s=forward_s,
        )

    def evaluate(self, message: Activation) -> Forwarded:
        """Evaluations take no virtual time."""
        h = torch.zeros(1)  # a sample to count
        return Forwarded(step=message.step, x=None, h=h, target=None, version=self.version, learns=False, held=False)

    def probe(self, message: Activation) -> Forwarded:
        """Neither do probes."""
        return Forwarded(
            step=message.step,
            x=None,
            h=_NOTHING,
            target=None,
            version=self.version,
            learns=False,
            held=False,
            probe=True,
        )

    def grade_probe(self, entry: Forwarded, answer: Payload | None) -> tuple[Payload | None, dict[str, float]]:
        """There is nothing to grade."""
        return _NOTHING, {}

    def loss_sum(self, entry: Forwarded) -> float:
        """Nothing is lost."""
        return 0.0

    def received(self, gradient: Payload) -> Payload:
        """As it came."""
        return gradient

    def received_error(self, message: OutputError) -> OutputError:
        """As it came."""
        return message

    def output_error(self, entry: Forwarded, *, with_loss: bool) -> OutputError:
        """It takes no time of its own."""
        return OutputError(step=entry.step, value=_NO_SAMPLES, loss_per_sample=_NO_SAMPLES)

    def backward_from_source(self, entry: Forwarded) -> Payload | None:
        """Take a backward's time, if the source gives a gradient."""
        return self._backward(entry) if self._acts else None

    def backward_late(self, entry: Forwarded) -> tuple[Payload | None, bool]:
        """Take a backward's time, and that of the forward run again if there has to be one."""
        if self._recomputes:
            self._recorder.begin()
            self._recorder.end("R", entry.step, version=self.version)
        return self._backward(entry), True

    def learn_source(self, entry: Forwarded) -> None:
        """Take the time of the source's learning."""
        self._recorder.begin()
        self._recorder.end("L", entry.step, version=self.version)

    def due(self, step: int) -> bool:
        """As the cadences say."""
        return self._pace.due(step)

    def update(self, step: int) -> None:
        """Take an update's time, if anything has been accumulated."""
        self._update(step, self._pace.take_due(step))

    def change_structure(self, step: int) -> list[Reshape]:
        """Its structure stays as it is: what is played is the network of the first step."""
        return []

    def follow(self, message: Reshape) -> None:
        """Nobody sends other units."""

    def hear_loss(self, loss: float) -> None:
        """Nothing is lost."""

    def finish(self, step: int) -> None:
        """Take an update's time, if anything has been accumulated."""
        self._update(step, self._pace.take_all())

    def check_finite(self) -> None:
        """Nothing can be infinite."""

    def named_tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The version."""
        return {"version": self.version}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the version."""
        self.version = state["version"]

    def _backward(self, entry: Forwarded) -> Payload:
        self._recorder.begin()
        self._recorder.end("B", entry.step, version=self.version)
        self._pace.accumulate(1, None if self._participants is None else self._participants.own(entry.step))
        entry.let_go()
        return _NOTHING

    def _update(self, step: int, windows: list[Window]) -> None:
        for window in windows:
            window.close()
        if (windows or self._pace.drifting) and self._updates:
            self._recorder.begin()
            self.version += 1
            self._recorder.end("U", step, version=self.version)


def build_timed_stage(prepared: Prepared, index: int, *, clock: Clock) -> Stage:
    """Stage `index` with a learner that only takes time."""
    plan = prepared.plans[index]
    recorder = Recorder(index, clock)
    learner = TimedLearner(
        recorder,
        awaited=prepared.awaited[index],
        acts=plan.source_acts,
        updates=plan.num_parameters > 0,
        stash=prepared.config.stash,
        pace=prepared.pace(index),
        participants=prepared.participants(index),
    )
    return Stage(learner, settings=stage_settings(prepared, index), recorder=recorder)


class _NoData:
    """Microbatches without content."""

    exact = True

    def peek(self) -> Batch:
        """The first one."""
        return _NOTHING, None

    def start(self, step: int) -> Iterator[Batch]:
        """As many as are asked for."""
        while True:
            yield _NOTHING, None


def make_timed_feed(prepared: Prepared) -> Feed:
    """What enters the first stage: the messages of the real run, without content."""
    config = prepared.config
    settings = FeedSettings(
        steps=config.steps, evaluate_every=config.evaluate_every, checkpoint_every=config.checkpoint_every
    )
    probe = None if prepared.probe is None else replace(prepared.probe, h=_NOTHING, target=None)
    return Feed(_NoData(), [(_NOTHING, None)] * len(prepared.test), settings=settings, probe=probe)
