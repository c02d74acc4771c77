"""Who may draw from the process-wide generators now, where several threads of one process do?

PyTorch's default generators belong to the process. A thread that starts one at a key and then draws must be alone with
it, so whoever draws takes a turn; whoever does not goes on beside the others. What was found not to draw is watched now
and then: its turn must leave the generators as they were.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Turns"]

_LOCK = threading.RLock()
"""One for all runs of the process, as the generators are."""


class Turns:
    """The turns of the threads of one run."""

    def __init__(self) -> None:
        self.suspicious = False
        """Whether somebody has drawn out of turn, and it is not known who: from now on, everybody is watched."""
        self._beside: set[object] = set()
        self._overlapping: set[object] = set()

    @contextmanager
    def alone(self, waited: Callable[[float], None] = lambda seconds: None) -> Iterator[None]:
        """Nobody else draws inside the block; `waited` is told for how long it had to be waited for, if at all."""
        _wait_free(waited)
        try:
            yield
        finally:
            _LOCK.release()

    @contextmanager
    def beside(self, who: object) -> Iterator[None]:
        """The block is said not to draw; `who` runs one such block at a time."""
        self._beside.add(who)
        self._overlapping.add(who)  # in this order: a watch that begins meanwhile sees one of the two
        try:
            yield
        finally:
            self._beside.discard(who)

    @contextmanager
    def watched(
        self, state: Callable[[], object], *, drew: Callable[[], Exception], waited: Callable[[float], None]
    ) -> Iterator[None]:
        """The block is said not to draw, and that is checked.

        Args:
            state: of the generators, to be compared.
            drew: the exception to raise if the block drew. If others that are said not to draw ran meanwhile, it may
                have been one of them: then everybody is watched from now on, and whoever does it again is named.
            waited: told for how long the turn had to be waited for, if at all.
        """
        _wait_free(waited)
        try:
            self._overlapping.clear()
            self._overlapping.update(self._beside)
            before = state()
            yield
            if state() == before:
                return
            if not self._overlapping:
                raise drew()
            self.suspicious = True
        finally:
            _LOCK.release()


def _wait_free(waited: Callable[[float], None]) -> None:
    if _LOCK.acquire(blocking=False):
        return
    started_s = time.perf_counter()
    _LOCK.acquire()
    waited(time.perf_counter() - started_s)
