"""What does a stage do with a message?

A stage is a small learner: its module, its optimiser and the source of the gradient at its output. `handle` takes a
message and returns the messages to send. It does no I/O, never sleeps, and knows neither clock nor executor, so the
same stage runs in a simulation, in one process or in many. An executor may hand it

    an Activation, Drain or Stop    while `accepts_activation`
    a Gradient                      at any time

and, once `drained`, saves it if the Drain says so and calls `resume`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dni import Cadence, GradientSource, Need, Periodic, SyncPolicy, UpdateProbability, map_members
from pipeline.errors import NotFinite, StageFailure
from pipeline.evaluation import Tally
from pipeline.keyed import generator
from pipeline.learner import Learner
from pipeline.messages import Activation, Drain, Gradient, Message, Payload, Send, Stop
from pipeline.stash import Forwarded, Stash
from pipeline.trace import Recorder
from pipeline.updater import Updater

__all__ = ["Stage", "StageSettings"]


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """How one stage behaves."""

    index: int
    """Position in the network, from 0."""
    num_stages: int
    seed: int
    sync: SyncPolicy
    """Asked by the first stage only."""
    cadence: Cadence = field(default_factory=Periodic)
    cadences_below: tuple[Cadence, ...] = ()
    """Of the stages below, which send nothing further while an update of theirs waits for what this stage holds."""
    update_probability: UpdateProbability = field(default_factory=UpdateProbability)
    max_in_flight: int = 1
    """Bound on the microbatches sent on and not yet answered."""
    modifies_input: bool = False
    """Whether the module writes into its input, which then has to be copied first."""
    check_every: int = 100
    """Steps from one scan of the parameters for NaN to the next; 0: never."""
    measure_every: int = 10
    """One in this many sync steps also compares parameter gradients, at the cost of a second backward; 0: none."""


class Stage:
    """One stage of a network.

    Args:
        module: the stage's part of the model, already on `device`.
        source: where the gradient at the module's output comes from; `LossGradient` for the last stage.
        updater: the optimiser of the module's parameters.
        settings: how the stage behaves.
        recorder: takes down what it does.
        names: global name of every entry of the module's state dict.
        device: where the stage runs; what arrives is moved there.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        source: GradientSource,
        updater: Updater,
        settings: StageSettings,
        recorder: Recorder,
        names: Mapping[str, str],
        device: torch.device,
    ) -> None:
        self.settings = settings
        self.recorder = recorder
        self.stopping = False
        self._learner = Learner(
            module,
            index=settings.index,
            source=source,
            updater=updater,
            recorder=recorder,
            names=names,
            device=device,
            seed=settings.seed,
            modifies_input=settings.modifies_input,
            measure_every=settings.measure_every,
        )
        self._stash = Stash()
        self._update_due: int | None = None
        self._below_waits = False
        """Whether a stage below takes nothing further before the newest microbatch, or its window, is answered."""
        self._drain: Drain | None = None
        self._tally: Tally | None = None

    @property
    def module(self) -> nn.Module:
        """The stage's part of the model."""
        return self._learner.module

    @property
    def source(self) -> GradientSource:
        """Where the gradient at its output comes from."""
        return self._learner.source

    @property
    def updater(self) -> Updater:
        """Its optimiser and what it has accumulated."""
        return self._learner.updater

    @property
    def version(self) -> int:
        """Steps in which any block was applied."""
        return self._learner.version

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._learner.device

    @property
    def index(self) -> int:
        """Position in the network, from 0."""
        return self.settings.index

    @property
    def is_last(self) -> bool:
        """Whether the loss is this stage's source."""
        return self.index == self.settings.num_stages - 1

    @property
    def phase(self) -> str:
        """What is being done, or was last: `forward`, `backward`, `source learning`, `update`, `evaluation`."""
        return self._learner.phase

    @property
    def in_flight(self) -> int:
        """Microbatches sent on and not yet answered."""
        return len(self._stash)

    @property
    def accepts_activation(self) -> bool:
        """Whether what comes from below may be handled now.

        Not while a sync step waits for its gradient (a sync step is exact), while an update is due (the next window is
        forwarded with the new weights), while a stage below waits for what this one holds (nothing would come), while
        draining, or with `max_in_flight` microbatches unanswered.
        """
        return (
            not self.stopping
            and self._drain is None
            and self._update_due is None
            and self._stash.num_blocking == 0
            and not (self._below_waits and self._stash.num_held)
            and self.in_flight < self.settings.max_in_flight
        )

    @property
    def drained(self) -> Drain | None:
        """The Drain that has been carried out; the executor answers with `resume`."""
        return self._drain if self.in_flight == 0 else None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.stopping and self.in_flight == 0

    def handle(self, message: Message) -> list[Send]:
        """Do what `message` asks for and return what is to be sent.

        Raises:
            StageFailure: whatever went wrong, with stage, step and phase; the cause is chained.
        """
        try:
            match message:
                case Activation(training=True):
                    return self._train(message)
                case Activation():
                    return self._evaluate(message)
                case Gradient():
                    return self._answered(message)
                case Drain():
                    self._drain = message
                    return self._pass_on(message)
                case Stop():
                    self.stopping = True
                    return self._pass_on(message)
        except Exception as error:
            step, phase = message.step, self._learner.phase
            raise StageFailure(stage=self.index, step=step, phase=phase, cause=error) from error

    def resume(self) -> None:
        """Go on after a drain that was carried out (and saved, if it asked for that)."""
        assert self._drain is not None and self.in_flight == 0
        drain, self._drain = self._drain, None
        if self._tally is not None:
            for name, value in self._tally.scalars().items():
                self.recorder.measure(name, drain.step, value)
            self._tally = None
        if drain.finish:
            self._learner.update(drain.step - 1)

    def named_tensors(self) -> dict[str, Tensor]:
        """The module's parameters and buffers under their global names."""
        return self._learner.named_tensors()

    def state_dict(self) -> dict[str, Any]:
        """Everything that outlives a drain, under global names."""
        assert self.in_flight == 0, "a stage is saved only when drained"
        try:
            return self._learner.state_dict()
        except NotFinite as error:
            step = 0 if self._drain is None else self._drain.step
            raise StageFailure(stage=self.index, step=step, phase="checkpoint", cause=error) from error

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the stage that `state` was taken from."""
        self._learner.load_state_dict(state)

    def _train(self, message: Activation) -> list[Send]:
        if self.index == 0:
            message = self._with_reach(message)
        step = message.step
        learns = self._draws_update(step)
        within_reach = not self.is_last and message.reach >= self.settings.num_stages - self.index
        waits_by_nature = bool(self.source.needs & Need.GRADIENT)
        entry = self._learner.forward(
            message,
            learns=learns,
            held=learns and not self.is_last and (within_reach or waits_by_nature),
            blocks=learns and within_reach and not waits_by_nature,
            asks=waits_by_nature and not within_reach,
        )
        sends = [] if self.is_last else [self._send_on(message, entry)]
        self._below_waits = message.reach > self.settings.num_stages - self.index or any(
            cadence.due(step) for cadence in self.settings.cadences_below
        )
        if self.settings.cadence.due(step):
            self._update_due = step
        if entry.held:
            return sends
        sends += self._learn_now(entry)
        self._update_if_due()
        return sends

    def _with_reach(self, message: Activation) -> Activation:
        settings = self.settings
        reach = settings.sync.reach(
            message.step,
            num_stages=settings.num_stages,
            generator=generator(settings.seed, "sync", message.step),
        )
        return Activation(step=message.step, h=message.h, target=message.target, reach=reach)

    def _draws_update(self, step: int) -> bool:
        rate = self.settings.update_probability
        return rate.probability >= 1.0 or rate.draws(generator(self.settings.seed, f"update/{self.index}", step))

    def _send_on(self, message: Activation, entry: Forwarded) -> Send:
        self._stash.put(entry)
        h = map_members(Tensor.detach, entry.h)
        if not message.training:
            entry.h = ()
        return Send(
            self.index + 1,
            Activation(
                step=message.step,
                h=h,
                target=message.target,
                reach=message.reach,
                version=self.version,
                training=message.training,
            ),
        )

    def _learn_now(self, entry: Forwarded) -> list[Send]:
        """Backward at once, from the stage's own source."""
        pulled = self._learner.backward_from_source(entry) if entry.learns else None
        if pulled is None:
            return self._not_learned(entry)
        return self._answer(entry.step, pulled, exact=self.is_last)

    def _not_learned(self, entry: Forwarded) -> list[Send]:
        entry.let_go()
        self.recorder.mark("D", entry.step, version=self.version)
        return self._answer(entry.step, None, exact=False)

    def _answered(self, message: Gradient) -> list[Send]:
        entry = self._stash.take(message.step)
        sends: list[Send] = []
        if message.value is None:
            sends = self._not_learned(entry) if entry.held else []
        else:
            value = map_members(self._learner.to_device, message.value)
            if entry.held:
                pulled, as_it_came = self._learner.backward_from_above(entry, value)
                exact = message.exact and as_it_came
                sends = self._not_learned(entry) if pulled is None else self._answer(entry.step, pulled, exact=exact)
            # Also at a step that this stage did not draw: the source regresses what the stage above made of it.
            self._learner.learn_source(entry, value)
            self.recorder.measure("staleness", entry.step, self.version - entry.version)
        self._update_if_due()
        return sends

    def _update_if_due(self) -> None:
        if self._update_due is None or self._stash.num_held:
            return
        step, self._update_due = self._update_due, None
        self._learner.update(step)
        if self.settings.check_every and (step + 1) % self.settings.check_every == 0:
            self.updater.check_finite()

    def _evaluate(self, message: Activation) -> list[Send]:
        entry = self._learner.evaluate(message)
        sends = self._answer(message.step, None, exact=False)
        if not self.is_last:
            return [self._send_on(message, entry), *sends]
        self._tally = self._tally or Tally()
        self._tally.add(entry.h, entry.target, loss_sum=self._learner.loss_sum(entry))
        return sends

    def _answer(self, step: int, value: Payload | None, *, exact: bool) -> list[Send]:
        """What the stage below waits for; the feed below the first stage waits for nothing."""
        if self.index == 0:
            return []
        return [Send(self.index - 1, Gradient(step=step, value=value, exact=exact, version=self.version))]

    def _pass_on(self, message: Drain | Stop) -> list[Send]:
        return [] if self.is_last else [Send(self.index + 1, message)]
