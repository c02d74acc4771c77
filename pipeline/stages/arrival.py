"""Which message does a stage handle next, and which ones wait for it?

`ready` handles what is there: fast, the order varies from run to run. Where both wait, gradients come first (backward
first, as in 1F1B), or activations (forward first, as in GPipe). `fixed` names the one message whose turn it is, from
the stage's own state alone, and waits for it: F(s) after G(s - delay), the delay being the stage's bound on what is in
flight. What the last stage says of a step comes before that step's gradient. So every executor, on any machine, handles
the same messages in the same order. A stage with synthetic inputs runs a step when its Input is there, and takes the
step's activation, which it then only learns from and answers, as soon as that comes; in fixed order, right after.

A queue is bounded by what the stage below may have in flight. Where that stage is not to wait for a slower one, a
policy drops what is too much: `latest` keeps the newest activation, `drop_oldest` the newest few. The newest of all is
never dropped: it is by what came up later that a stage learns of what did not.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pipeline.messages import Activation, Input, Message, OutputError
from pipeline.stages.stage import Stage
from pipeline.stages.synthetic_inputs import SyntheticInputs, is_other

__all__ = ["Arrival", "Inbox", "Preference", "QueuePolicy"]

Arrival: TypeAlias = Literal["ready", "fixed"]
Preference: TypeAlias = Literal["gradients", "activations"]
QueuePolicy: TypeAlias = Literal["block", "latest", "drop_oldest"]


@dataclass
class Inbox:
    """The messages that wait for one stage, with the time each arrived."""

    arrival: Arrival
    prefer: Preference = "gradients"
    """With arrival ready: what is handled first when both wait."""
    room: int | None = None
    """Activations that may wait; None: as many as the stage below may have in flight."""
    below: deque[tuple[float, Message]] = field(default_factory=deque)
    """From the stage below or the feed: activations, drains, stop."""
    above: deque[tuple[float, Message]] = field(default_factory=deque)
    """From the stage above (or, deferred, from the stage itself): gradients."""
    errors: deque[tuple[float, Message]] = field(default_factory=deque)
    """From the last stage: what the loss says of a step."""

    inputs: deque[tuple[float, Message]] = field(default_factory=deque)
    """From the first stage: the network's input, for a stage with synthetic inputs."""

    def put_input(self, message: Input, *, arrived_s: float = 0.0) -> None:
        """Let the network's input of a step wait."""
        self.inputs.append((arrived_s, message))

    def put_below(self, message: Message, *, arrived_s: float = 0.0) -> Activation | None:
        """Let a message from below wait; returns the activation that has to go instead, to be answered."""
        self.below.append((arrived_s, message))
        if self.room is None or not isinstance(message, Activation) or len(self.below) <= self.room:
            return None
        return self._take_oldest() if sum(isinstance(m, Activation) for _, m in self.below) > self.room else None

    def put_above(self, message: Message, *, arrived_s: float = 0.0) -> None:
        """Let a gradient wait, or what the last stage says."""
        (self.errors if isinstance(message, OutputError) else self.above).append((arrived_s, message))

    def turn(self, stage: Stage) -> deque[tuple[float, Message]] | None:
        """The queue whose first message `stage` handles next; None: it has to wait."""
        above, errors = self.above, self._errors_due(stage)
        upward = self._upward(stage)
        if self.arrival == "fixed":
            expected = (errors if stage.expects_error else above) if upward is None else upward
            return expected or None
        if self.prefer == "gradients" and (errors or above):
            return errors or above
        return upward or errors or above or None

    def describe(self, stage: Stage) -> str:
        """What `stage` waits for, in one line, for the message of a deadlock."""
        return (
            f"stage {stage.index}: in flight {stage.in_flight}, accepts {stage.accepts_activation}, "
            f"waiting below {len(self.below)}, above {len(self.above)}, from the last stage {len(self.errors)}"
        )

    def _errors_due(self, stage: Stage) -> deque[tuple[float, Message]]:
        """What the last stage says of steps that `stage` has run: on synthetic inputs, that one may be ahead of it."""
        return self.errors if self.errors and self.errors[0][1].step <= stage.newest_step else deque()

    def _upward(self, stage: Stage) -> deque[tuple[float, Message]] | None:
        """The queue, maybe empty, from which `stage` takes what is on its way up; None: it takes nothing."""
        inputs = stage.synthetic_inputs
        if inputs is not None and (pairs := self._pairs(inputs)) is not None:
            return pairs
        if not stage.accepts_activation:
            return None
        if inputs is None or inputs.waits:
            return self.below
        return self.inputs if self._input_is_due(stage) else self.below

    def _pairs(self, inputs: SyntheticInputs) -> deque[tuple[float, Message]] | None:
        """What comes from below, if it is, or in fixed order has to be, the activation of a step already run."""
        if self.arrival == "fixed":
            return self.below if len(inputs) > inputs.waits else None
        return self.below if self.below and inputs.is_pair(self.below[0][1]) else None

    def _input_is_due(self, stage: Stage) -> bool:
        """Whether a training step comes next, and not an evaluation or a drain: whichever is there says so."""
        if self.inputs:
            first = self.inputs[0][1]
            return isinstance(first, Input) and first.after == stage.num_others
        return not (self.below and is_other(self.below[0][1]))

    def _take_oldest(self) -> Activation | None:
        """The oldest activation that may be dropped: not one of a sync, nor of an evaluation, nor the newest."""
        newest = self.below[-1][1]
        for position, (_, message) in enumerate(self.below):
            if isinstance(message, Activation) and message.training and message.reach <= 1 and message is not newest:
                del self.below[position]
                return message
        return None
