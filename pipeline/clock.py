"""What time is it for a stage: the machine's, or a simulation's?"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "ThreadClock", "VirtualClock", "WallClock"]


class Clock(Protocol):
    """Tells the time before and after a piece of a stage's work."""

    def now(self) -> float:
        """Seconds; only differences mean something, except that processes of one machine agree."""

    def spend(self, stage: int, operation: str) -> float:
        """The time at the end of an operation (`F`, `B`, `L` or `U`) of a stage."""


class WallClock:
    """Real time: Unix seconds that never run backwards."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.perf_counter()

    def now(self) -> float:
        return self._offset_s + time.perf_counter()

    def spend(self, stage: int, operation: str) -> float:
        return self._offset_s + time.perf_counter()


class ThreadClock:
    """The processor time of the calling thread: what work costs, however many others want the cores."""

    def now(self) -> float:
        return time.thread_time()

    def spend(self, stage: int, operation: str) -> float:
        return time.thread_time()


class VirtualClock:
    """Time that passes only as the cost model says.

    Args:
        cost: seconds that an operation of a stage takes, as a function of (stage, operation).
    """

    def __init__(self, cost: Callable[[int, str], float]) -> None:
        self._cost = cost
        self.time_s = 0.0
        """The present; a simulator sets it to the start of each stage's turn."""

    def now(self) -> float:
        return self.time_s

    def spend(self, stage: int, operation: str) -> float:
        self.time_s += self._cost(stage, operation)
        return self.time_s
