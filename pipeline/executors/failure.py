"""How does a failure become known: to this rank's own thread, to the other ranks, and in error.json?"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import FailureRecord, LostEdge, LostStore, RemoteFailure
from pipeline.records.folder import write_error
from pipeline.transports.control import Control
from pipeline.transports.mailbox import ConnectedMailbox

__all__ = ["Failure"]

_CAUSE_WITHIN_S = 0.5
"""Whoever only saw a connection break waits this long for somebody to say why."""
_LEAVE_AFTER_S = 1.0
"""A rank that failed leaves once the others know, or after this long if one of them does not answer."""


class Failure:
    """The failure of a run, seen from one rank.

    Args:
        mailbox: where the rank's own thread finds messages, and exceptions that it is to raise.
        rank: this rank.
        folder: the run's folder, for error.json; None: nothing is written.
        on_known: called once, from any thread, as soon as this rank knows that the run has failed.
    """

    def __init__(
        self,
        mailbox: ConnectedMailbox,
        *,
        rank: int,
        folder: Path | None,
        on_known: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self._mailbox = mailbox
        self._rank = rank
        self._folder = folder
        self._on_known = on_known
        self._lock = threading.Lock()
        self._known_s = 0.0
        self.error: BaseException | None = None
        """The first that was known here; None while all is well."""

    def learn(self, error: BaseException) -> None:
        """Have the rank's own thread raise `error`. For the other threads."""
        self._know(error)
        self._mailbox.put(error)

    def tell(self, error: BaseException, control: Control) -> FailureRecord:
        """Publish an error of this rank, or a loss that it has seen; returns the first record of all ranks."""
        own = FailureRecord.of(error, rank=self._rank)
        first = control.fail(own)
        if first == own:
            self._write(own)
        return first

    def settle(
        self, error: BaseException, control: Control, *, num_gone: Callable[[], int]
    ) -> tuple[BaseException, FailureRecord]:
        """What the rank's own thread does with an exception: find its cause, publish it, and let the others know.

        Args:
            error: what has ended the thread's work.
            control: its way to the others.
            num_gone: ranks that are dead, and will not acknowledge.

        Returns:
            The error that is to be raised, and the first failure's record, which names another rank if it is not ours.
        """
        if isinstance(error, LostEdge | LostStore):
            error = self._wait_for_cause(error)
        self._know(error)
        try:
            if isinstance(error, LostStore):
                raise error
            record = error.record if isinstance(error, RemoteFailure) else self.tell(error, control)
            control.wait_acknowledged(timeout_s=_LEAVE_AFTER_S, num_gone=num_gone())
        except LostStore:  # nobody is left to say who was first
            record = FailureRecord.of(error, rank=self._rank)
            self._write(record, over=False)
        return error, record

    @property
    def known_for_s(self) -> float:
        """Seconds since this rank knows of the failure; 0 while all is well."""
        return time.monotonic() - self._known_s if self.error is not None else 0.0

    def _know(self, error: BaseException) -> None:
        with self._lock:
            if self.error is not None:
                return
            self.error, self._known_s = error, time.monotonic()
        self._on_known(error)

    def _wait_for_cause(self, error: BaseException) -> BaseException:
        """A connection, to a rank or to the store, breaks because a process died; give others time to say which."""
        deadline_s = time.monotonic() + _CAUSE_WITHIN_S
        while (remaining_s := deadline_s - time.monotonic()) > 0:
            try:
                delivery = self._mailbox.get(timeout=remaining_s)
            except queue.Empty:
                break
            if isinstance(delivery, BaseException) and not isinstance(delivery, LostEdge | LostStore):
                return delivery
            if isinstance(delivery, LostStore):
                error = delivery  # says more than an edge that broke
        return error

    def _write(self, record: FailureRecord, *, over: bool = True) -> None:
        if self._folder is not None:
            write_error(self._folder, record, over=over)
