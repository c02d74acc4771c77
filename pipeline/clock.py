"""What time is it for a stage: the machine's, or a simulation's?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
        pauses: when stages stand still: (stage, from, for) in seconds, as often as wanted.
    """

    def __init__(self, cost: Callable[[int, str], float], *, pauses: Sequence[tuple[int, float, float]] = ()) -> None:
        self._cost = cost
        self._pauses = _by_stage(pauses)
        self.time_s = 0.0
        """The present; a simulator sets it to the start of each stage's turn."""

    def now(self) -> float:
        return self.time_s

    def spend(self, stage: int, operation: str) -> float:
        cost_s = self._cost(stage, operation)
        self.time_s = self._end_s(stage, cost_s) if stage in self._pauses else self.time_s + cost_s
        return self.time_s

    def awake_s(self, stage: int) -> float:
        """The earliest moment from now on at which a stage does not stand still."""
        return self._end_s(stage, 0.0) if stage in self._pauses else self.time_s

    def _end_s(self, stage: int, cost_s: float) -> float:
        """When work that is begun now ends: pauses that it runs into come on top."""
        start_s, end_s = self.time_s, self.time_s + cost_s
        for from_s, until_s in self._pauses[stage]:
            if from_s <= start_s < until_s or start_s < from_s < end_s:
                end_s += until_s - max(start_s, from_s)
        return end_s


def _by_stage(pauses: Sequence[tuple[int, float, float]]) -> dict[int, list[tuple[float, float]]]:
    """Per stage the pauses in order, as (from, until); those that overlap are one."""
    found: dict[int, list[tuple[float, float]]] = {}
    for stage, from_s, for_s in sorted(pauses):
        own = found.setdefault(stage, [])
        until_s = from_s + for_s
        if own and from_s <= own[-1][1]:
            own[-1] = (own[-1][0], max(own[-1][1], until_s))
        else:
            own.append((from_s, until_s))
    return found
