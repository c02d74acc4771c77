"""What does a stage tell the others?"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.messages import Activation, Drain, Gradient, Input, Payload, Send, Stop
from pipeline.stages.stage_learner import StageLearner
from pipeline.stages.stage_settings import StageSettings
from pipeline.stages.stash import Forwarded
from pipeline.stages.synthetic_inputs import SyntheticInputs

__all__ = ["Outbox"]


class Outbox:
    """Makes the messages of one stage.

    Args:
        learner: knows the stage's version, and what its source is worth.
        settings: says which stage it is.
        synthetic_inputs: keeps answers to activations that have not come yet; None: all have.
    """

    def __init__(
        self, learner: StageLearner, *, settings: StageSettings, synthetic_inputs: SyntheticInputs | None
    ) -> None:
        self._learner = learner
        self._settings = settings
        self._synthetic_inputs = synthetic_inputs
        self.quality_above: float | None = None
        """What the stage above reported last of the sources there."""

    @property
    def lowest_quality(self) -> float | None:
        """Of this stage's source and of those above, as reported so far; None: none has been compared."""
        known = [quality for quality in (self._learner.quality, self.quality_above) if quality is not None]
        return min(known, default=None)

    def send_on(self, message: Activation, entry: Forwarded) -> Send:
        """The stage's output, for the stage above."""
        return Send(
            self._settings.index + 1,
            Activation(
                step=message.step,
                h=entry.h,
                target=message.target,
                reach=message.reach,
                version=self._learner.version,
                generation=entry.generation,
                training=message.training,
                probe=message.probe,
            ),
        )

    def pulled_back(self, entry: Forwarded, pulled: Payload, *, exact: bool) -> list[Send]:
        """dL/dx on its way down, or a credit where it would be for nothing."""
        if not entry.wanted:
            return self.answer(entry.step, None)
        return self.answer(entry.step, pulled, exact=exact, generation=entry.generation_below)

    def answer(
        self, step: int, value: Payload | None, *, exact: bool = False, dropped: bool = False, generation: int = 0
    ) -> list[Send]:
        """What the stage below waits for; the feed below the first stage waits for nothing."""
        index = self._settings.index
        if index == 0:
            return []
        answer = Gradient(
            step=step,
            value=value,
            exact=exact,
            version=self._learner.version,
            generation=generation,
            dropped=dropped,
            quality=self.lowest_quality,
            loss=self._learner.loss,
        )
        if self._synthetic_inputs is not None and self._synthetic_inputs.keep(answer):
            return []
        return [Send(index - 1, answer)]

    def share_input(self, message: Activation, *, after: int) -> Iterator[Send]:
        """The network's input on its way to those that run on it; nothing of it where a sync reaches below them."""
        for stage in self._settings.input_listeners:
            as_received = self._settings.is_true_below(message.reach, stage=stage)
            yield Send(
                stage,
                Input(
                    step=message.step,
                    x=None if as_received else message.h,
                    target=None if as_received else message.target,
                    reach=message.reach,
                    after=after,
                ),
            )

    def pass_on(self, message: Drain | Stop) -> list[Send]:
        """A drain or stop, for the stage above."""
        index = self._settings.index
        return [] if index == self._settings.num_stages - 1 else [Send(index + 1, message)]
