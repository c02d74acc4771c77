"""What does a stage do with a message?

A stage decides when: when to take a microbatch, to pull a gradient back, to update. What is computed is its learner's
(`pipeline.learners.learner`, or a stand-in that takes time only). `work` takes a message and yields the messages to
send, each as soon as it may go. It does no I/O, never sleeps, and knows neither clock nor executor, so the same stage
runs in a simulation, in one process or in many. An executor may hand it

    an Activation, Reshape, Drain or Stop    while `accepts_activation`
    a Gradient or OutputError                at any time

(in which order a stage with synthetic inputs takes those, say `pipeline.stages.synthetic_inputs` and `arrival`)

and, once `drained`, saves it if the Drain says so and calls `resume`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import NotFinite, StageFailure
from pipeline.messages import Activation, Drain, Gradient, Input, Message, OutputError, Payload, Reshape, Send, Stop
from pipeline.randomness.keyed import generator
from pipeline.stages.evaluation import Tally
from pipeline.stages.gate import Gate
from pipeline.stages.outbox import Outbox
from pipeline.stages.output_errors import OutputErrors
from pipeline.stages.stage_learner import StageLearner
from pipeline.stages.stage_settings import StageSettings
from pipeline.stages.stash import GRADIENT, NOTHING, OUTPUT_ERROR, Forwarded, Stash
from pipeline.stages.synthetic_inputs import SyntheticInputs, is_other
from pipeline.stages.trace import Recorder, notation

__all__ = ["Stage"]


class Stage:
    """One stage of a network.

    Args:
        learner: what it computes.
        settings: how it behaves.
        recorder: takes down what it does.
    """

    def __init__(self, learner: StageLearner, *, settings: StageSettings, recorder: Recorder) -> None:
        self.learner = learner
        self.settings = settings
        self.index = settings.index
        """Position in the network, from 0."""
        self.is_last = settings.is_last
        """Whether the loss is this stage's source."""
        self.recorder = recorder
        self.stash = Stash(settings.stash)
        self._output_errors = OutputErrors(settings.listeners)
        self.synthetic_inputs = SyntheticInputs() if settings.imagines else None
        """What is to be paired up of the microbatches that it runs on synthetic inputs; None: it runs on none."""
        self.newest_step = -1
        """The last one that was forwarded."""
        self.num_others = 0
        """Messages from below that were no training steps; they keep their place among inputs by it."""
        self._gate = Gate(settings, self.stash)
        self._outbox = Outbox(learner, settings=settings, synthetic_inputs=self.synthetic_inputs)
        self._tally: Tally | None = None
        self._grades: dict[str, float] = {}

    @property
    def module(self) -> nn.Module:
        """The stage's part of the model."""
        return self.learner.module

    @property
    def version(self) -> int:
        """Steps in which any block was applied."""
        return self.learner.version

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.learner.device

    @property
    def in_flight(self) -> int:
        """Microbatches sent on and not yet answered."""
        return len(self.stash)

    @property
    def accepts_activation(self) -> bool:
        """Whether what comes from below may be handled now (`Gate.is_open`)."""
        return self._gate.is_open

    @property
    def stopping(self) -> bool:
        """Whether nothing follows."""
        return self._gate.stopping

    @property
    def expects_error(self) -> bool:
        """Whether, in fixed order, what comes next is from the last stage and not from the one above."""
        return self.stash.expects_error

    @property
    def drained(self) -> Drain | None:
        """The Drain that has been carried out; the executor answers with `resume`."""
        return self._gate.drain if self.in_flight == 0 else None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.stopping and self.in_flight == 0

    def handle(self, message: Message) -> list[Send]:
        """Do what `message` asks for and return what is to be sent."""
        return list(self.work(message))

    def work(self, message: Message) -> Iterator[Send]:
        """Do what `message` asks for and yield what is to be sent, as soon as it may go; to be exhausted.

        Raises:
            StageFailure: whatever went wrong, with stage, step and phase; the cause is chained.
        """
        self.recorder.handles(notation(message))
        self.num_others += is_other(message)
        try:
            match message:
                case Input():
                    yield from self._imagine(message)
                case Activation(training=True) if self.synthetic_inputs is not None:
                    yield from self._received(message, self.synthetic_inputs)
                case Activation(training=True):
                    yield from self._train(message)
                case Activation(probe=False):
                    yield from self._evaluate(message)
                case Activation():
                    yield from self._probe(message)
                case Gradient():
                    yield from self._answered(message)
                case OutputError():
                    yield from self._told(message)
                case Reshape():
                    self.learner.follow(message)
                case Drain():
                    self._gate.drain = message
                    yield from self._outbox.pass_on(message)
                case Stop():
                    self._gate.stopping = True
                    yield from self._outbox.pass_on(message)
        except Exception as error:
            raise self._failure(message.step, error) from error

    def drop(self, message: Activation) -> list[Send]:
        """Answer an activation that a queue had no room for; nothing is computed."""
        self.recorder.handles(f"X{message.step}")
        self.recorder.mark("D", message.step, version=self.version)
        self.recorder.totals.dropped += 1
        return self._outbox.answer(message.step, None, dropped=True)

    def resume(self) -> None:
        """Go on after a drain that was carried out (and saved, if it asked for that)."""
        assert self._gate.drain is not None and self.in_flight == 0
        drain, self._gate.drain = self._gate.drain, None
        if self._tally is not None:
            for name, value in self._tally.scalars().items():
                self.recorder.measure(name, drain.step, value)
            self._tally = None
        for name, value in self._grades.items():
            self.recorder.measure(f"probe_{name}", drain.step, value)
        self._grades = {}
        if drain.finish:
            try:
                self.learner.finish(drain.step - 1)
            except Exception as error:
                raise self._failure(drain.step - 1, error) from error

    def named_tensors(self) -> dict[str, Tensor]:
        """The module's parameters and buffers under their global names."""
        return self.learner.named_tensors()

    def state_dict(self) -> dict[str, Any]:
        """Everything that outlives a drain, under global names."""
        assert self.in_flight == 0, "a stage is saved only when drained"
        try:
            return {**self.learner.state_dict(), "quality_above": self._outbox.quality_above}
        except NotFinite as error:
            drain = self._gate.drain
            step = 0 if drain is None else drain.step
            raise StageFailure(stage=self.index, step=step, phase="checkpoint", cause=error) from error

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the stage that `state` was taken from."""
        self.learner.load_state_dict(state)
        self._outbox.quality_above = state.get("quality_above")  # not in the oldest checkpoints

    def _failure(self, step: int, cause: Exception) -> StageFailure:
        return StageFailure(stage=self.index, step=step, phase=self.learner.phase, cause=cause)

    def _imagine(self, message: Input) -> Iterator[Send]:
        """Run a step on a synthetic input; or wait for what comes from below, where that is the only way."""
        assert self.synthetic_inputs is not None
        if message.x is None or not self.learner.can_imagine:
            self.synthetic_inputs.wait(message)
            return
        self.synthetic_inputs.imagine(message)
        h = self.learner.imagine(message)
        yield from self._train(
            Activation(
                step=message.step,
                h=h,
                target=message.target,
                reach=message.reach,
                generation=self.learner.generation_below,
            )
        )

    def _received(self, message: Activation, inputs: SyntheticInputs) -> Iterator[Send]:
        """Take what a synthetic input stands for: answer it if its step was run already, else run it; learn from it."""
        imagined = inputs.pair(message) if inputs.is_pair(message) else None
        x = inputs.received(message) if imagined is None else imagined.x
        if imagined is None:
            yield from self._train(message)
        elif imagined.answer is not None:
            yield Send(self.index - 1, imagined.answer)
        rate = self.settings.input_probability
        if x is not None and rate.draws(generator(self.settings.seed, f"input/{self.index}", message.step)):
            self.learner.learn_input(x, message)

    def _train(self, message: Activation) -> Iterator[Send]:
        if self.index == 0:
            message = self._with_reach(message)
            yield from self._outbox.share_input(message, after=self.num_others)
        self.newest_step = step = message.step
        settings, awaited = self.settings, self.learner.awaited
        goes_on = settings.goes_on(step)
        learns = (goes_on or awaited.acts_apart) and self._draws_update(step) and settings.pulls(step, message.reach)
        within_reach = goes_on and settings.is_within(message.reach)
        needs, learns_from = (awaited.to_act, awaited.to_learn) if goes_on else (NOTHING, NOTHING)
        entry = self.learner.forward(
            message,
            learns=learns,
            held=learns and (settings.defers if self.is_last else within_reach or bool(needs)),
            sync=learns and within_reach and "gradient" not in needs,
            asks=bool(needs) and not within_reach,
            num_due=self.stash.num_due,
            wanted=settings.is_wanted_below(step, message.reach),
        )
        entry.goes_on, entry.lessons = goes_on, learns_from
        if settings.comes_to_top(step):  # of others the last stage, on its clock, never hears
            entry.awaited |= (needs | learns_from) & OUTPUT_ERROR
        if entry.held or (goes_on and not self.is_last):
            self.stash.put(entry)
        self._gate.note(message, entry, due=self.learner.due(step))
        if self.is_last:
            self._output_errors.expect(step)
        elif goes_on:
            yield self._outbox.send_on(message, entry)
        if entry.held:
            if self.is_last:  # its turn comes again, as if the loss had answered from above
                yield Send(self.index, Gradient(step=step, value=None))
            return
        yield from self._learn_now(entry)
        yield from self._update_if_due(entry)

    def _with_reach(self, message: Activation) -> Activation:
        settings = self.settings
        reach = settings.sync.reach(
            message.step,
            num_stages=settings.num_stages,
            generator=generator(settings.seed, "sync", message.step),
            quality=self._outbox.lowest_quality,
        )
        return Activation(step=message.step, h=message.h, target=message.target, reach=reach)

    def _draws_update(self, step: int) -> bool:
        rate = self.settings.update_probability
        return rate.probability >= 1.0 or rate.draws(generator(self.settings.seed, f"update/{self.index}", step))

    def _learn_now(self, entry: Forwarded) -> Iterator[Send]:
        """Backward at once, from the stage's own source, and the learning of a source that waits for nothing.

        At the top, whoever asks is told first what the loss says.
        """
        if self.is_last:
            yield from self._output_errors.tell(self._output_error(entry))
        awaited = self.learner.awaited
        pulled = self.learner.backward_from_source(entry) if entry.learns else None
        if pulled is None:
            yield from self._not_learned(entry)
        else:
            yield from self._outbox.pulled_back(entry, pulled, exact=self.is_last)
        if entry.learns and (awaited.learns_alone if entry.goes_on else awaited.learns_apart):
            self.learner.learn_source(entry)
        if not entry.lessons:
            entry.h = ()  # what comes back teaches nothing

    def _output_error(self, entry: Forwarded) -> OutputError:
        parts = self._output_errors.parts
        if not (entry.learns and parts):
            return OutputError(step=entry.step)
        return self.learner.output_error(entry, with_loss="loss" in parts)

    def _not_learned(self, entry: Forwarded) -> list[Send]:
        entry.let_go()
        self.recorder.mark("D", entry.step, version=self.version)
        return self._outbox.answer(entry.step, None)

    def _answered(self, message: Gradient) -> Iterator[Send]:
        entry = self.stash.find(message.step)
        if entry.probe:
            self.stash.take(message.step)
            yield from self._graded(entry, None if message.value is None else self.learner.received(message.value))
            return
        self._outbox.quality_above = message.quality
        if message.loss is not None:
            self.learner.hear_loss(message.loss)
        if message.dropped:
            self.recorder.totals.dropped_s += entry.forward_s
        if message.value is not None:
            message = replace(message, value=self.learner.received(message.value))
        entry.answer(message)
        if self.is_last and entry.learns:  # deferred
            yield from self._learn_now(entry)
        else:
            yield from self._learn_late(entry)
        yield from self._close_if_done(entry)

    def _told(self, message: OutputError) -> Iterator[Send]:
        message = self.learner.received_error(message)
        for entry in self.stash.find_untold(message.step):
            entry.tell(message)
            yield from self._learn_late(entry)
            yield from self._close_if_done(entry)

    def _learn_late(self, entry: Forwarded) -> Iterator[Send]:
        """Backward, and the source's learning, each once all that it takes has come."""
        awaited = self.learner.awaited
        needed, lessons = awaited.to_act if entry.asks else GRADIENT, entry.lessons
        pulls = entry.held and entry.has_come(needed)
        # Also at a step that this stage did not draw: the source regresses what the stage above made of it.
        learns = bool(lessons) and entry.has_come(lessons)
        # Where something asks for nothing from above, it does what it can without.
        can_pull = pulls and (entry.has_all(needed) or (entry.asks and awaited.acts_apart))
        can_learn = learns and (entry.has_all(lessons) or awaited.learns_apart)
        if (can_pull or can_learn) and self._too_stale(entry):
            can_pull = can_learn = False
        if pulls:
            self.stash.release(entry)
            yield from self._pull_late(entry) if can_pull else self._not_learned(entry)
        if can_learn or (can_pull and awaited.learns_alone):
            self.learner.learn_source(entry)
        if can_pull or can_learn:
            self.recorder.measure("staleness", entry.step, self.version - entry.version)
        if learns:
            entry.lessons = NOTHING
        if not (entry.held or entry.lessons):
            entry.h = ()  # what may still come teaches nothing

    def _too_stale(self, entry: Forwarded) -> bool:
        most = self.settings.most_staleness
        stale = most is not None and self.version - entry.version > most
        self.recorder.totals.too_stale += stale
        return stale

    def _pull_late(self, entry: Forwarded) -> list[Send]:
        pulled, as_it_came = self.learner.backward_late(entry)
        if pulled is None:
            return self._not_learned(entry)
        return self._outbox.pulled_back(
            entry, pulled, exact=entry.exact and as_it_came and self.version == entry.version
        )

    def _close_if_done(self, entry: Forwarded) -> Iterator[Send]:
        """A microbatch for which nothing is to come any more is no longer in flight."""
        if not entry.awaited:
            self.stash.take(entry.step)
        yield from self._update_if_due(entry)

    def _update_if_due(self, entry: Forwarded) -> Iterator[Send]:
        """The update, and what becomes of the stage's structure after it."""
        step = self._gate.take_update(entry)
        if step is None:
            return
        self.learner.update(step)
        if self.settings.check_every and (step + 1) % self.settings.check_every == 0:
            self.learner.check_finite()
        if self._gate.drain is None:  # else the stage above has been told to drain, and might be saved without it
            for message in self.learner.change_structure(step):
                yield Send(self.index + 1, message)

    def _evaluate(self, message: Activation) -> Iterator[Send]:
        entry = self.learner.evaluate(message)
        if self.is_last:
            self._tally = self._tally or Tally()
            self._tally.add(entry.h, entry.target, loss_sum=self.learner.loss_sum(entry))
        elif self.settings.goes_on(message.step):  # an evaluation has the clocks of training, and counts its own steps
            self.stash.put(entry)
            yield self._outbox.send_on(message, entry)
            entry.h = ()  # nothing will be learned from it
        yield from self._outbox.answer(message.step, None)

    def _probe(self, message: Activation) -> Iterator[Send]:
        entry = self.learner.probe(message)
        if self.is_last:
            yield from self._graded(entry, None)
            return
        self.stash.put(entry)
        self._gate.probing = True
        yield self._outbox.send_on(message, entry)

    def _graded(self, entry: Forwarded, answer: Payload | None) -> Iterator[Send]:
        """A probe has come back; at the last stage it turns."""
        below, self._grades = self.learner.grade_probe(entry, answer)
        self._gate.probing = False
        yield from self._outbox.answer(entry.step, below)
