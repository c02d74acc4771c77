"""Which message does a stage handle next?

`ready` handles what is there, gradients first: fast, the order varies from run to run. `fixed` names the one message
whose turn it is, from the stage's own state alone, and waits for it: F(s) after G(s - delay), the delay being the
stage's bound on what is in flight. So every executor, on any machine, handles the same messages in the same order.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pipeline.messages import Message
from pipeline.stage import Stage

__all__ = ["Arrival", "Inbox", "Preference", "QueuePolicy"]

Arrival: TypeAlias = Literal["ready", "fixed"]
Preference: TypeAlias = Literal["gradients", "activations"]
QueuePolicy: TypeAlias = Literal["block", "latest", "drop_oldest"]


@dataclass
class Inbox:
    """The messages that wait for one stage, with the time each arrived."""

    arrival: Arrival
    below: deque[tuple[float, Message]] = field(default_factory=deque)
    """From the stage below or the feed: activations, drains, stop."""
    above: deque[tuple[float, Message]] = field(default_factory=deque)
    """From the stage above: gradients."""

    def turn(self, stage: Stage) -> deque[tuple[float, Message]] | None:
        """The queue whose first message `stage` handles next; None: it has to wait.

        The choice looks at the messages' presence only; `simulate` also weighs when they arrived.
        """
        if self.arrival == "fixed":
            expected = self.below if stage.accepts_activation else self.above
            return expected or None
        if self.above:
            return self.above
        return self.below if self.below and stage.accepts_activation else None
