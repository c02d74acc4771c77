"""What does a stage do with a message?

A stage decides when: when to take a microbatch, to pull a gradient back, to update. What is computed is its learner's
(`pipeline.learner`, or a stand-in that takes time only). `work` takes a message and yields the messages to send, each
as soon as it may go. It does no I/O, never sleeps, and knows neither clock nor executor, so the same stage runs in a
simulation, in one process or in many. An executor may hand it

    an Activation, Drain or Stop    while `accepts_activation`
    a Gradient or OutputError       at any time

and, once `drained`, saves it if the Drain says so and calls `resume`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import NotFinite, StageFailure
from pipeline.evaluation import Tally
from pipeline.keyed import generator
from pipeline.messages import Activation, Drain, Gradient, Message, OutputError, Payload, Send, Stop
from pipeline.output_errors import OutputErrors
from pipeline.stage_learner import StageLearner
from pipeline.stage_settings import StageSettings
from pipeline.stash import GRADIENT, NOTHING, OUTPUT_ERROR, Forwarded, Stash
from pipeline.trace import Recorder, notation

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
        self.is_last = settings.index == settings.num_stages - 1
        """Whether the loss is this stage's source."""
        self.recorder = recorder
        self.stopping = False
        self.stash = Stash(settings.stash)
        self._update_due: int | None = None
        """The step whose update waits until nothing is held (stash hold)."""
        self._output_errors = OutputErrors(settings.listeners)
        self._below_waits = False
        """Whether a stage below takes nothing further before the newest microbatch, or its window, is answered."""
        self._quality_above: float | None = None
        """What the stage above reported last of the sources there."""
        self._drain: Drain | None = None
        self._tally: Tally | None = None
        self._probing = False
        """Whether a probe has not come back; no stage takes anything more before it has."""
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
        """Whether what comes from below may be handled now.

        Not while a sync step waits for its gradient (a sync step is exact), while an update is due (the next window is
        forwarded with the new weights), while a stage below waits for what this one holds (nothing would come), while
        draining or while a probe is on its way, or with `max_in_flight` microbatches unanswered.
        """
        return (
            not self.stopping
            and self._drain is None
            and not self._probing
            and self._update_due is None
            and not self.stash.holds_sync
            and not (self._below_waits and self.stash.num_held)
            and self.in_flight < self.settings.max_in_flight
        )

    @property
    def expects_error(self) -> bool:
        """Whether, in fixed order, what comes next is from the last stage and not from the one above."""
        return self.stash.expects_error

    @property
    def drained(self) -> Drain | None:
        """The Drain that has been carried out; the executor answers with `resume`."""
        return self._drain if self.in_flight == 0 else None

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
        try:
            match message:
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
                case Drain():
                    self._drain = message
                    yield from self._pass_on(message)
                case Stop():
                    self.stopping = True
                    yield from self._pass_on(message)
        except Exception as error:
            raise self._failure(message.step, error) from error

    def drop(self, message: Activation) -> list[Send]:
        """Answer an activation that a queue had no room for; nothing is computed."""
        self.recorder.handles(f"X{message.step}")
        self.recorder.mark("D", message.step, version=self.version)
        self.recorder.totals.dropped += 1
        return self._answer(message.step, None, exact=False, dropped=True)

    def resume(self) -> None:
        """Go on after a drain that was carried out (and saved, if it asked for that)."""
        assert self._drain is not None and self.in_flight == 0
        drain, self._drain = self._drain, None
        if self._tally is not None:
            for name, value in self._tally.scalars().items():
                self.recorder.measure(name, drain.step, value)
            self._tally = None
        for name, value in self._grades.items():
            self.recorder.measure(f"probe_{name}", drain.step, value)
        self._grades = {}
        if drain.finish:
            try:
                self.learner.update(drain.step - 1)
            except Exception as error:
                raise self._failure(drain.step - 1, error) from error

    def named_tensors(self) -> dict[str, Tensor]:
        """The module's parameters and buffers under their global names."""
        return self.learner.named_tensors()

    def state_dict(self) -> dict[str, Any]:
        """Everything that outlives a drain, under global names."""
        assert self.in_flight == 0, "a stage is saved only when drained"
        try:
            return {**self.learner.state_dict(), "quality_above": self._quality_above}
        except NotFinite as error:
            step = 0 if self._drain is None else self._drain.step
            raise StageFailure(stage=self.index, step=step, phase="checkpoint", cause=error) from error

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the stage that `state` was taken from."""
        self.learner.load_state_dict(state)
        self._quality_above = state.get("quality_above")  # not in the oldest checkpoints

    def _failure(self, step: int, cause: Exception) -> StageFailure:
        return StageFailure(stage=self.index, step=step, phase=self.learner.phase, cause=cause)

    def _train(self, message: Activation) -> Iterator[Send]:
        if self.index == 0:
            message = self._with_reach(message)
        step = message.step
        goes_on = self._goes_on(step)
        learns = self._draws_update(step) and (goes_on or self.learner.acts_apart)
        within_reach = goes_on and not self.is_last and message.reach >= self.settings.num_stages - self.index
        needs, learns_from = (self.learner.needs, self.learner.learns_from) if goes_on else (NOTHING, NOTHING)
        entry = self.learner.forward(
            message,
            learns=learns,
            held=learns and (self.settings.defers if self.is_last else within_reach or bool(needs)),
            sync=learns and within_reach and "gradient" not in needs,
            asks=bool(needs) and not within_reach,
            num_due=self.stash.num_due,
            wanted=self._is_wanted(message),
        )
        entry.goes_on, entry.lessons = goes_on, learns_from
        if (step + 1) % self.settings.top_takes_every == 0:  # of others the last stage, on its clock, never hears
            entry.awaited |= (needs | learns_from) & OUTPUT_ERROR
        if entry.held or (goes_on and not self.is_last):
            self.stash.put(entry)
        self._note_what_waits(message, entry)
        if self.is_last:
            self._output_errors.expect(step)
        elif goes_on:
            yield self._send_on(message, entry)
        if entry.held:
            if self.is_last:  # its turn comes again, as if the loss had answered from above
                yield Send(self.index, Gradient(step=step, value=None))
            return
        yield from self._learn_now(entry)
        self._update_if_due(entry)

    def _goes_on(self, step: int) -> bool:
        """Whether the stage above gets this microbatch; at the last stage all are."""
        return self.is_last or (step + 1) % self.settings.sends_every == 0

    def _is_wanted(self, message: Activation) -> bool:
        """Whether the stage below makes anything of this step's gradient: by its source, or as a sync reaches it."""
        settings = self.settings
        return self.index > 0 and (settings.below_wants or message.reach > settings.num_stages - self.index)

    def _note_what_waits(self, message: Activation, entry: Forwarded) -> None:
        """An update that is due at this step; and whether a stage below waits for what this one holds."""
        settings, step = self.settings, message.step
        due = settings.cadence.due(step)
        if settings.stash != "hold":
            entry.update_due = due
            return
        if due:
            self._update_due = step
        # An update below may fall due at a step that does not come up here, before the next one that does.
        until_next = range(step, step + settings.takes_every)
        self._below_waits = message.reach > settings.num_stages - self.index or any(
            cadence.due(each) for cadence in settings.cadences_below for each in until_next
        )

    def _with_reach(self, message: Activation) -> Activation:
        settings = self.settings
        reach = settings.sync.reach(
            message.step,
            num_stages=settings.num_stages,
            generator=generator(settings.seed, "sync", message.step),
            quality=self._lowest_quality(),
        )
        return Activation(step=message.step, h=message.h, target=message.target, reach=reach)

    def _lowest_quality(self) -> float | None:
        """Of this stage's source and of those above, as reported so far; None: none has been compared."""
        known = [quality for quality in (self.learner.quality, self._quality_above) if quality is not None]
        return min(known, default=None)

    def _draws_update(self, step: int) -> bool:
        rate = self.settings.update_probability
        return rate.probability >= 1.0 or rate.draws(generator(self.settings.seed, f"update/{self.index}", step))

    def _send_on(self, message: Activation, entry: Forwarded) -> Send:
        return Send(
            self.index + 1,
            Activation(
                step=message.step,
                h=entry.h,
                target=message.target,
                reach=message.reach,
                version=self.version,
                training=message.training,
                probe=message.probe,
            ),
        )

    def _learn_now(self, entry: Forwarded) -> Iterator[Send]:
        """Backward at once, from the stage's own source, and the learning of a source that waits for nothing.

        At the top, whoever asks is told first what the loss says.
        """
        if self.is_last:
            yield from self._output_errors.tell(self._output_error(entry))
        pulled = self.learner.backward_from_source(entry) if entry.learns else None
        if pulled is None:
            yield from self._not_learned(entry)
        else:
            yield from self._pulled_back(entry, pulled, exact=self.is_last)
        if entry.learns and (self.learner.learns_alone if entry.goes_on else self.learner.learns_apart):
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
        return self._answer(entry.step, None, exact=False)

    def _answered(self, message: Gradient) -> Iterator[Send]:
        entry = self.stash.find(message.step)
        if entry.probe:
            self.stash.take(message.step)
            yield from self._graded(entry, None if message.value is None else self.learner.received(message.value))
            return
        self._quality_above = message.quality
        if message.dropped:
            self.recorder.totals.dropped_s += entry.forward_s
        if message.value is not None:
            message = replace(message, value=self.learner.received(message.value))
        entry.answer(message)
        if self.is_last and entry.learns:  # deferred
            yield from self._learn_now(entry)
        else:
            yield from self._learn_late(entry)
        self._close_if_done(entry)

    def _told(self, message: OutputError) -> Iterator[Send]:
        message = self.learner.received_error(message)
        for entry in self.stash.find_untold(message.step):
            entry.tell(message)
            yield from self._learn_late(entry)
            self._close_if_done(entry)

    def _learn_late(self, entry: Forwarded) -> Iterator[Send]:
        """Backward, and the source's learning, each once all that it takes has come."""
        needed, lessons = self.learner.needs if entry.asks else GRADIENT, entry.lessons
        pulls = entry.held and entry.has_come(needed)
        # Also at a step that this stage did not draw: the source regresses what the stage above made of it.
        learns = bool(lessons) and entry.has_come(lessons)
        # Where something asks for nothing from above, it does what it can without.
        can_pull = pulls and (entry.has_all(needed) or (entry.asks and self.learner.acts_apart))
        can_learn = learns and (entry.has_all(lessons) or self.learner.learns_apart)
        if (can_pull or can_learn) and self._too_stale(entry):
            can_pull = can_learn = False
        if pulls:
            self.stash.release(entry)
            yield from self._pull_late(entry) if can_pull else self._not_learned(entry)
        if can_learn or (can_pull and self.learner.learns_alone):
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
        return self._pulled_back(entry, pulled, exact=entry.exact and as_it_came and self.version == entry.version)

    def _close_if_done(self, entry: Forwarded) -> None:
        """A microbatch for which nothing is to come any more is no longer in flight."""
        if not entry.awaited:
            self.stash.take(entry.step)
        self._update_if_due(entry)

    def _update_if_due(self, entry: Forwarded) -> None:
        if self.settings.stash == "hold":
            step = self._update_due
            if step is None or self.stash.num_held:
                return
            self._update_due = None
        elif entry.update_due:
            step, entry.update_due = entry.step, False
        else:
            return
        self.learner.update(step)
        if self.settings.check_every and (step + 1) % self.settings.check_every == 0:
            self.learner.check_finite()

    def _evaluate(self, message: Activation) -> Iterator[Send]:
        entry = self.learner.evaluate(message)
        if self.is_last:
            self._tally = self._tally or Tally()
            self._tally.add(entry.h, entry.target, loss_sum=self.learner.loss_sum(entry))
        elif self._goes_on(message.step):  # an evaluation has the clocks of training, and counts its own steps
            self.stash.put(entry)
            yield self._send_on(message, entry)
            entry.h = ()  # nothing will be learned from it
        yield from self._answer(message.step, None, exact=False)

    def _pulled_back(self, entry: Forwarded, pulled: Payload, *, exact: bool) -> list[Send]:
        """dL/dx on its way down, or a credit where it would be for nothing."""
        if not entry.wanted:
            return self._answer(entry.step, None, exact=False)
        return self._answer(entry.step, pulled, exact=exact)

    def _probe(self, message: Activation) -> Iterator[Send]:
        entry = self.learner.probe(message)
        if self.is_last:
            yield from self._graded(entry, None)
            return
        self.stash.put(entry)
        self._probing = True
        yield self._send_on(message, entry)

    def _graded(self, entry: Forwarded, answer: Payload | None) -> Iterator[Send]:
        """A probe has come back; at the last stage it turns."""
        below, self._grades = self.learner.grade_probe(entry, answer)
        self._probing = False
        yield from self._answer(entry.step, below, exact=False)

    def _answer(self, step: int, value: Payload | None, *, exact: bool, dropped: bool = False) -> list[Send]:
        """What the stage below waits for; the feed below the first stage waits for nothing."""
        if self.index == 0:
            return []
        answer = Gradient(
            step=step,
            value=value,
            exact=exact,
            version=self.version,
            dropped=dropped,
            quality=self._lowest_quality(),
        )
        return [Send(self.index - 1, answer)]

    def _pass_on(self, message: Drain | Stop) -> list[Send]:
        return [] if self.is_last else [Send(self.index + 1, message)]
