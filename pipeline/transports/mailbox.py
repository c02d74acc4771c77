"""Where does a thread find what others have for the stages that it drives?

In its mailbox, which is all it waits for. `queue.SimpleQueue` is one. A rank's is `ConnectedMailbox`: connections can
be attached to it, and then the thread waits for them itself. What comes over them reaches it without a second thread
that first has to be woken, which would take as long as all the rest of a message's way.

To sleep and be woken takes longer than that, too. So where every thread of the run has a core of its own, the owner
looks for a moment again and again before it sleeps.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

from pipeline.messages import Message

__all__ = ["ConnectedMailbox", "Delivery", "Mailbox", "affordable_spin_s"]

Delivery: TypeAlias = tuple[int, int, Message] | BaseException
"""(from stage, to stage, message), or why the owner has to stop."""

_SPIN_S = 100e-6
"""Twice a short message's way and back."""


def affordable_spin_s(num_threads: int) -> float:
    """How long to look before sleeping, if so many threads of the run compute on this machine.

    If they have to share cores, no time at all: whoever looks would keep another from computing.
    """
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _SPIN_S if num_threads <= num_cores else 0.0


class Mailbox(Protocol):
    """What is delivered is put in by any thread, and taken out by its owner in the same order."""

    def put(self, delivery: Delivery, /) -> None:
        """Hand over; never waits."""

    def empty(self) -> bool:
        """Whether there is nothing to take right now."""

    def get(self) -> Delivery:
        """The next one, as soon as there is one."""


class ConnectedMailbox:
    """A mailbox whose owner waits for connections, too. All but `put` is for the owner's thread.

    Args:
        spin_s: seconds to look again and again before sleeping; see `affordable_spin_s`.
    """

    def __init__(self, *, spin_s: float = 0.0) -> None:
        self.spin_s = spin_s
        self._deliveries: deque[Delivery] = deque()
        self._attached: dict[int, Callable[[], None]] = {}
        self._poll = select.poll()
        self._wakes, self._woken_by = os.pipe()
        os.set_blocking(self._woken_by, False)
        self._poll.register(self._wakes, select.POLLIN)
        self._sleeps = False

    def put(self, delivery: Delivery, /) -> None:
        """Hand over a delivery, from any thread."""
        self._deliveries.append(delivery)
        if self._sleeps:  # else the owner looks before it sleeps
            with contextlib.suppress(BlockingIOError):  # the pipe is full of calls to wake
                os.write(self._woken_by, b"\0")

    def empty(self) -> bool:
        """Whether there is nothing to take, also from what is attached."""
        if not self._deliveries and self._attached:
            self._take_in(timeout_ms=0)
        return not self._deliveries

    def get(self, timeout: float | None = None) -> Delivery:
        """The next delivery; waits for it, or this many seconds.

        Raises:
            queue.Empty: there was none in that time.
        """
        if not self.wait(lambda: bool(self._deliveries), timeout):
            raise queue.Empty
        return self._deliveries.popleft()

    def attach(self, connection: socket.socket, take: Callable[[], None]) -> None:
        """From here on, call `take` on the owner's thread when there is something to read from the connection."""
        self._attached[connection.fileno()] = take
        self._poll.register(connection, select.POLLIN)

    def detach(self, connection: socket.socket) -> None:
        """Wait for this connection no more; call it before the connection is closed."""
        del self._attached[connection.fileno()]
        self._poll.unregister(connection)

    def wait_readable(self, connection: socket.socket, timeout: float | None = None) -> bool:
        """Wait for something to read from a connection that is not attached, and meanwhile take in what comes.

        So two ranks that each wait for the other to take a message both go on. Returns whether there is something.
        """
        is_readable = False

        def note() -> None:
            nonlocal is_readable
            is_readable = True

        self.attach(connection, note)
        try:
            return self.wait(lambda: is_readable, timeout)
        finally:
            self.detach(connection)

    def wait(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Take in what comes until the condition holds, or for this many seconds. Returns whether it holds."""
        started_s = time.monotonic()
        while not condition() and time.monotonic() - started_s < self.spin_s:
            self._take_in(timeout_ms=0)
        deadline_s = None if timeout is None else started_s + timeout
        while not condition():
            self._sleeps = True  # before the last look: who puts something in after that, wakes
            try:
                if condition():
                    return True
                remaining_ms = None if deadline_s is None else max((deadline_s - time.monotonic()) * 1e3, 0.0)
                self._take_in(timeout_ms=remaining_ms)
            finally:
                self._sleeps = False
            if remaining_ms == 0:
                return condition()
        return True

    def close(self) -> None:
        """Give back what the mailbox holds; it can still be put into."""
        os.close(self._wakes)
        os.close(self._woken_by)

    def _take_in(self, *, timeout_ms: float | None) -> None:
        """Wait for what is attached, and take from whatever has something."""
        for descriptor, _ in self._poll.poll(timeout_ms):
            if descriptor == self._wakes:
                os.read(self._wakes, select.PIPE_BUF)
            elif take := self._attached.get(descriptor):  # it may have been detached by the one before
                take()
