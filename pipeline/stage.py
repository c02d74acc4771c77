"""What does a stage do with a message?

A stage is a small learner: its module, its optimiser and the source of the gradient at its output. `handle` takes a
message and returns the messages to send. It does no I/O, never sleeps, and knows neither clock nor executor, so the
same stage runs in a simulation, in one process or in many. An executor may hand it

    an Activation, Drain or Stop    while `accepts_activation`
    a Gradient                      at any time

and, once `drained`, saves it if the Drain says so and calls `resume`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dni import (
    Cadence,
    GradientSource,
    LossGradient,
    Need,
    NoGradient,
    Periodic,
    Signal,
    SyncPolicy,
    UpdateProbability,
    carriers,
    compare_gradients,
    compare_parameter_gradients,
    like,
    map_members,
    num_samples,
)
from pipeline.errors import NotFinite, StageFailure
from pipeline.evaluation import Tally
from pipeline.keyed import generator, seeded
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
        self.module = module
        self.source = source
        self.updater = updater
        self.settings = settings
        self.recorder = recorder
        self.version = 0
        """Steps in which any block was applied."""
        self.stopping = False
        self._names = dict(names)
        self._device = device
        self._stash = Stash()
        self._built = False
        self._update_due: int | None = None
        self._below_waits = False
        """Whether a stage below takes nothing further before the newest microbatch, or its window, is answered."""
        self._drain: Drain | None = None
        self._tally: Tally | None = None
        self._num_syncs = 0
        self._phase = "start"

    @property
    def index(self) -> int:
        """Position in the network, from 0."""
        return self.settings.index

    @property
    def is_last(self) -> bool:
        """Whether the loss is this stage's source."""
        return self.index == self.settings.num_stages - 1

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
            step, phase = message.step, self._phase
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
            self._apply(drain.step - 1)

    def named_tensors(self) -> dict[str, torch.Tensor]:
        """The module's parameters and buffers under their global names."""
        return {self._names[name]: value for name, value in self.module.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that outlives a drain, under global names."""
        assert self.in_flight == 0, "a stage is saved only when drained"
        try:
            self.updater.check_finite()
        except NotFinite as error:
            step = 0 if self._drain is None else self._drain.step
            raise StageFailure(stage=self.index, step=step, phase="checkpoint", cause=error) from error
        return {
            "module": self.named_tensors(),
            "source": self.source.state_dict() if self._built else None,
            "updater": self.updater.state_dict(),
            "version": self.version,
            "num_syncs": self._num_syncs,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the stage that `state` was taken from."""
        self.module.load_state_dict({name: state["module"][full] for name, full in self._names.items()})
        if state["source"] is not None:
            self.source.load_state_dict(state["source"])
            self._built = True
        self.updater.load_state_dict(state["updater"])
        self.version = state["version"]
        self._num_syncs = state["num_syncs"]

    def _train(self, message: Activation) -> list[Send]:
        if self.index == 0:
            message = self._with_reach(message)
        step = message.step
        learns = self._draws_update(step)
        within_reach = not self.is_last and message.reach >= self.settings.num_stages - self.index
        waits_by_nature = bool(self.source.needs & Need.GRADIENT)
        entry = self._forward(
            message,
            learns=learns,
            held=learns and not self.is_last and (within_reach or waits_by_nature),
            blocks=learns and within_reach and not waits_by_nature,
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

    def _forward(self, message: Activation, *, learns: bool, held: bool, blocks: bool) -> Forwarded:
        self._phase = "forward"
        self.recorder.begin()
        self._set_mode(training=True)
        x = self._input(message.h, requires_grad=learns and self.index > 0)
        seeded(self.settings.seed, f"forward/{self.index}", message.step, device=self._device)
        with torch.set_grad_enabled(held or (learns and not isinstance(self.source, NoGradient))):
            h = self.module(map_members(torch.clone, x) if self.settings.modifies_input else x)
        target = None if message.target is None else message.target.to(self._device)
        entry = Forwarded(
            step=message.step,
            x=x,
            h=h,
            target=target,
            version=self.version,
            learns=learns,
            held=held,
            blocks=blocks,
        )
        self.recorder.end("F", message.step, version=self.version, reach=message.reach)
        self.recorder.totals.num_samples += num_samples(h)
        if blocks:
            self.recorder.mark("S", message.step, version=self.version, reach=message.reach)
        return entry

    def _send_on(self, message: Activation, entry: Forwarded) -> Send:
        self._stash.put(entry)
        h = map_members(torch.Tensor.detach, entry.h)
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
        if not entry.learns:
            return self._not_learned(entry)
        self._phase = "backward"
        self.recorder.begin()
        h = map_members(torch.Tensor.detach, entry.h)
        self._build_source(h)
        seeded(self.settings.seed, f"estimate/{self.index}", entry.step, device=self._device)
        gradient = self.source.estimate(h, Signal(step=entry.step, target=entry.target))
        if isinstance(self.source, LossGradient):
            self._record_loss(entry.step)
        if gradient is None:
            return self._not_learned(entry)
        return self._backward(entry, gradient, exact=self.is_last)

    def _backward(self, entry: Forwarded, gradient: Payload, *, exact: bool) -> list[Send]:
        """Pull `gradient` back through the stage; the recorder's operation is already open."""
        values = carriers(gradient)
        self._check_finite("gradient at the output", values)
        pairs = [(h, value) for h, value in zip(carriers(entry.h), values, strict=True) if h.requires_grad]
        if pairs:  # none in a first stage that has nothing to learn
            torch.autograd.backward([h for h, _ in pairs], [value for _, value in pairs])
        self.updater.accumulate(num_samples(entry.h))
        x, entry.x = entry.x, None
        entry.h = map_members(torch.Tensor.detach, entry.h)
        self.recorder.end("B", entry.step, version=self.version)
        if self.index == 0:
            return []
        assert x is not None
        pulled = like(x, [torch.zeros_like(m) if m.grad is None else m.grad for m in carriers(x)])
        return [self._answer(entry.step, pulled, exact=exact)]

    def _not_learned(self, entry: Forwarded) -> list[Send]:
        entry.x = None
        entry.h = map_members(torch.Tensor.detach, entry.h)
        self.recorder.mark("D", entry.step, version=self.version)
        return [] if self.index == 0 else [self._answer(entry.step, None, exact=False)]

    def _answered(self, message: Gradient) -> list[Send]:
        entry = self._stash.take(message.step)
        value = None if message.value is None else map_members(self._to_device, message.value)
        sends: list[Send] = []
        if value is None:
            sends = self._not_learned(entry) if entry.held else []
        else:
            signal = Signal(step=entry.step, target=entry.target, gradient=value)
            if entry.held:
                self._phase = "backward"
                self.recorder.begin()
                self._measure_quality(entry, signal)
                sends = self._backward(entry, value, exact=message.exact)
            # Also at a step that this stage did not draw: the source regresses what the stage above made of it.
            self._learn_source(entry, signal)
            self.recorder.measure("staleness", entry.step, self.version - entry.version)
        self._update_if_due()
        return sends

    def _learn_source(self, entry: Forwarded, signal: Signal) -> None:
        if not self.source.learns_from:
            return
        self._phase = "source learning"
        self.recorder.begin()
        h = map_members(torch.Tensor.detach, entry.h)
        self._build_source(h)
        seeded(self.settings.seed, f"learn/{self.index}", entry.step, device=self._device)
        loss = self.source.learn(h, signal)
        self.recorder.end("L", entry.step, version=self.version)
        self.recorder.measure("source_loss", entry.step, loss)
        if not math.isfinite(loss):
            raise NotFinite(f"the loss of the source of stage {self.index} is {loss} at step {entry.step}.")

    def _measure_quality(self, entry: Forwarded, signal: Signal) -> None:
        """At a sync step, set what the source would have said beside the truth. Training is not disturbed."""
        if not entry.blocks or not self._built or not self.source.learns_from:
            return
        h = map_members(torch.Tensor.detach, entry.h)
        estimate = self.source.estimate(h, signal)
        self._num_syncs += 1
        if estimate is None or signal.gradient is None:
            return
        values = compare_gradients(carriers(estimate), carriers(signal.gradient))
        every = self.settings.measure_every
        if every and (self._num_syncs - 1) % every == 0:
            parameters = [p for p in self.module.parameters() if p.requires_grad]
            values |= compare_parameter_gradients(
                carriers(entry.h), parameters, used=carriers(estimate), true=carriers(signal.gradient)
            )
        for name, value in values.items():
            self.recorder.measure(name, entry.step, value)

    def _update_if_due(self) -> None:
        if self._update_due is None or self._stash.num_held:
            return
        step, self._update_due = self._update_due, None
        self._apply(step)
        if self.settings.check_every and (step + 1) % self.settings.check_every == 0:
            self.updater.check_finite()

    def _apply(self, step: int) -> None:
        self._phase = "update"
        self.recorder.begin()
        if self.updater.apply(step):
            self.version += 1
            self.recorder.end("U", step, version=self.version)

    def _evaluate(self, message: Activation) -> list[Send]:
        self._phase = "evaluation"
        self.recorder.begin()
        self._set_mode(training=False)
        with torch.no_grad():
            x = self._input(message.h, requires_grad=False)
            h = self.module(map_members(torch.clone, x) if self.settings.modifies_input else x)
        entry = Forwarded(
            step=message.step,
            x=None,
            h=h,
            target=message.target,
            version=self.version,
            learns=False,
            held=False,
            blocks=False,
        )
        sends = [] if self.index == 0 else [self._answer(message.step, None, exact=False)]
        if self.is_last:
            self._count(h, message)
        else:
            sends = [self._send_on(message, entry), *sends]
        self.recorder.end_untraced("evaluation")
        return sends

    def _count(self, h: Payload, message: Activation) -> None:
        assert isinstance(self.source, LossGradient)
        target = None if message.target is None else message.target.to(self._device)
        with torch.no_grad():
            loss_sum = self.source.summed(h, target).item()
        self._tally = self._tally or Tally()
        self._tally.add(h, target, loss_sum=loss_sum)

    def _record_loss(self, step: int) -> None:
        assert isinstance(self.source, LossGradient) and self.source.latest is not None
        loss = self.source.latest
        if not math.isfinite(loss):
            raise NotFinite(f"the loss is {loss}. Lower the learning rate or clip (clip_norm).")
        self.recorder.measure("loss", step, loss)

    def _check_finite(self, what: str, values: list[torch.Tensor]) -> None:
        for value in values:
            # One reduction is cheap; it misses nothing, and a finite sum that overflows is looked at again.
            if not math.isfinite(value.sum().item()) and not torch.isfinite(value).all():
                raise NotFinite(f"the {what} of stage {self.index} holds NaN or infinity.")

    def _build_source(self, h: Payload) -> None:
        if not self._built:
            self.source.build(h, generator=generator(self.settings.seed, f"source/{self.index}", 0))
            self._built = True

    def _input(self, h: Payload, *, requires_grad: bool) -> Payload:
        x = map_members(self._to_device, h)
        if requires_grad:
            for member in carriers(x):
                member.requires_grad_()
        return x

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(self._device)

    def _set_mode(self, *, training: bool) -> None:
        if self.module.training != training:
            self.module.train(training)

    def _answer(self, step: int, value: Payload | None, *, exact: bool) -> Send:
        return Send(self.index - 1, Gradient(step=step, value=value, exact=exact, version=self.version))

    def _pass_on(self, message: Drain | Stop) -> list[Send]:
        return [] if self.is_last else [Send(self.index + 1, message)]
