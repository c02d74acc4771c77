"""How do messages get to a stage on the same rank? They are handed over as they are."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.messages import Message
from pipeline.transports.edge import EdgeStatistics

__all__ = ["InProcessSender"]


class InProcessSender:
    """Both ends of an edge whose stages share a thread.

    Args:
        deliver: called by `send` with each message.
    """

    def __init__(self, deliver: Callable[[Message], None]) -> None:
        self._deliver = deliver
        self._num_messages = 0

    def start(self) -> None:
        """There is nothing to start."""

    def send(self, message: Message) -> None:
        """Deliver the message. Its tensors are not copied: stages do not change what they have sent."""
        self._num_messages += 1
        self._deliver(message)

    def wait_stopped(self, timeout_s: float | None = None) -> None:
        """There is nothing to wait for."""

    def abort(self) -> None:
        """Nobody is blocked."""

    def statistics(self) -> EdgeStatistics:
        """What has been sent."""
        return EdgeStatistics(kind="in process", num_messages=self._num_messages, num_bytes=0)
