"""What are the two ends of a directed edge, whatever carries its messages?

A sending end is used by the thread that drives the stage, and waits only when too much is on its way. What waits for
messages differs between kinds of edges, and is an `Intake`. A receiving end gives it a thread of its own (`Receiver`),
or lets the thread that drives the stage wait with it (`AttachedReceiver`), where the transport can be waited for
together with others.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipeline.messages import Message, Stop
from pipeline.transports.frames import Incoming
from pipeline.transports.mailbox import ConnectedMailbox

__all__ = ["AttachedReceiver", "EdgeStatistics", "Intake", "Receiver", "ReceivingEnd", "SendingEnd"]


@dataclass(frozen=True, kw_only=True)
class EdgeStatistics:
    """What an end of an edge has carried so far."""

    kind: str
    """in process, shared, gloo or nccl."""
    num_messages: int
    num_bytes: int
    """Headers, payloads and announcements that have crossed; nothing crosses in process."""
    num_waits: int = 0
    """Times `send` had to wait because too much was on its way."""


class SendingEnd(Protocol):
    """Where a stage hands over messages for another stage."""

    def start(self) -> None:
        """Begin to send."""

    def send(self, message: Message) -> None:
        """Hand over a message; its tensors may be changed as soon as this returns.

        If the other end is lost, whoever made this end is told through its `failed`, and messages go nowhere.
        """

    def wait_stopped(self, timeout_s: float | None = None) -> None:
        """Wait until the other end has everything, and give back what the edge holds."""

    def abort(self) -> None:
        """Break the connection from any thread: both ends' blocked calls end. For a run that has failed."""

    def statistics(self) -> EdgeStatistics:
        """What has been sent."""


class ReceivingEnd(Protocol):
    """Where messages from another stage come out."""

    def start(self) -> None:
        """Begin to receive."""

    def wait_stopped(self, timeout_s: float | None = None) -> None:
        """Wait for the Stop, or the failure, that ends the edge, and give back what it holds."""

    def abort(self) -> None:
        """Break the connection from any thread: both ends' blocked calls end. For a run that has failed."""

    def statistics(self) -> EdgeStatistics:
        """What has been received."""


class Intake(Protocol):
    """Waits for the messages of one edge, on the thread of its receiving end."""

    kind: str
    incoming: Incoming

    def wait_message(self) -> Message:
        """The next message, with tensors that belong to the receiving stage.

        Raises:
            RunError: what came is not the next frame of this edge.
            Exception: the other end is gone, or somebody called `abort`.
        """

    def abort(self) -> None:
        """Wake the thread that waits, and the other end's."""

    def close(self) -> None:
        """Give back what the edge holds; nobody waits any more."""


class AttachedReceiver:
    """The receiving end of an edge for which the thread that drives the stage waits, with its mailbox.

    Args:
        intake: reads the messages.
        connection: has something to read when a message is on its way.
        mailbox: of the thread that uses this end.
        deliver: called by that thread while it waits, with each message; a Stop is the last.
        failed: called by it with the exception that ended the edge.
    """

    def __init__(
        self,
        *,
        intake: Intake,
        connection: socket.socket,
        mailbox: ConnectedMailbox,
        deliver: Callable[[Message], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._intake = intake
        self._connection = connection
        self._mailbox = mailbox
        self._deliver, self._failed = deliver, failed
        self._is_attached = False

    def start(self) -> None:
        """Begin to receive."""
        self._mailbox.attach(self._connection, self._take)
        self._is_attached = True

    def wait_stopped(self, timeout_s: float | None = None) -> None:
        """Take in what comes until the Stop, or the failure, that ends the edge, and give back what it holds."""
        if self._mailbox.wait(lambda: not self._is_attached, timeout_s):
            self._intake.close()

    def abort(self) -> None:
        """Break the connection. For a run that has failed."""
        self._intake.abort()

    def statistics(self) -> EdgeStatistics:
        """What has been received."""
        return _received(self._intake)

    def _take(self) -> None:
        try:
            message = self._intake.wait_message()
        except Exception as error:
            self._detach()
            self._failed(error)
            return
        if isinstance(message, Stop):
            self._detach()
        self._deliver(message)

    def _detach(self) -> None:
        self._mailbox.detach(self._connection)
        self._is_attached = False


class Receiver:
    """The receiving end of an edge that has a thread of its own.

    Args:
        intake: waits for the messages.
        deliver: called from the thread with each message; a Stop is the last.
        failed: called from the thread with the exception that ended it.
    """

    def __init__(
        self,
        *,
        intake: Intake,
        deliver: Callable[[Message], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._intake = intake
        self._deliver, self._failed = deliver, failed
        sender, receiver = intake.incoming.ends
        self._thread = threading.Thread(target=self._run, name=f"edge {sender}-{receiver}, receives", daemon=True)

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def wait_stopped(self, timeout_s: float | None = None) -> None:
        """Wait for the Stop (or the failure) that ends the thread, and give back what the edge holds."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._intake.close()

    def abort(self) -> None:
        """Wake the thread by breaking the connection. For a run that has failed."""
        self._intake.abort()

    def statistics(self) -> EdgeStatistics:
        """What has been received."""
        return _received(self._intake)

    def _run(self) -> None:
        try:
            while True:
                message = self._intake.wait_message()
                self._deliver(message)
                if isinstance(message, Stop):
                    return
        except BaseException as error:
            self._failed(error)


def _received(intake: Intake) -> EdgeStatistics:
    incoming = intake.incoming
    return EdgeStatistics(kind=intake.kind, num_messages=incoming.num_messages, num_bytes=incoming.num_bytes)
