"""Which message does a stage handle next, and which ones wait for it?

`ready` handles what is there: fast, the order varies from run to run. Where both wait, gradients come first (backward
first, as in 1F1B), or activations (forward first, as in GPipe). `fixed` names the one message whose turn it is, from
the stage's own state alone, and waits for it: F(s) after G(s - delay), the delay being the stage's bound on what is in
flight. What the last stage says of a step comes before that step's gradient. So every executor, on any machine, handles
the same messages in the same order.

A queue is bounded by what the stage below may have in flight. Where that stage is not to wait for a slower one, a
policy drops what is too much: `latest` keeps the newest activation, `drop_oldest` the newest few. The newest of all is
never dropped: it is by what came up later that a stage learns of what did not.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pipeline.messages import Activation, Message, OutputError
from pipeline.stage import Stage

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
        below, above, errors = self.below, self.above, self.errors
        if self.arrival == "fixed":
            expected = below if stage.accepts_activation else errors if stage.expects_error else above
            return expected or None
        if self.prefer == "gradients" and (errors or above):
            return errors or above
        if below and stage.accepts_activation:
            return below
        return errors or above or None

    def describe(self, stage: Stage) -> str:
        """What `stage` waits for, in one line, for the message of a deadlock."""
        return (
            f"stage {stage.index}: in flight {stage.in_flight}, accepts {stage.accepts_activation}, "
            f"waiting below {len(self.below)}, above {len(self.above)}, from the last stage {len(self.errors)}"
        )

    def _take_oldest(self) -> Activation | None:
        """The oldest activation that may be dropped: not one of a sync, nor of an evaluation, nor the newest."""
        newest = self.below[-1][1]
        for position, (_, message) in enumerate(self.below):
            if isinstance(message, Activation) and message.training and message.reach <= 1 and message is not newest:
                del self.below[position]
                return message
        return None
