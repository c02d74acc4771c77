"""How did a chain spend its virtual time?

`time_stages` plays the stages themselves and reads their recorders; `pipeline.virtual_time.recursion` computes the same
for long chains.

Letters: S stages, M microbatches the last stage learned from.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.stages.stage import Stage
from pipeline.stages.trace import Event
from pipeline.virtual_time.costs import OPERATIONS

__all__ = ["StageWatch", "Timing"]

_TURNS_BETWEEN = 64
"""Messages of a stage from one look at its recorder to the next: what it holds stays small."""
_MOST_EVENTS = 4000
"""Events kept of a stage that is to be drawn."""
_LAST_LOSSES = 50


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What a chain did until its last operation ended."""

    end_s: float
    """When that was."""
    done_s: NDArray[np.float64]
    """(M,): when the last stage had pulled back each microbatch, in order."""
    busy_s: NDArray[np.float64]
    """(S,), like those below: seconds in operations."""
    dropped_s: NDArray[np.float64]
    """Of these, forwards whose output the stage above dropped."""
    forwards: NDArray[np.int64]
    backwards: NDArray[np.int64]
    updates: NDArray[np.int64]
    most_held: NDArray[np.int64]
    """Most microbatches held at a time until their gradient came."""
    staleness_mean: NDArray[np.float64]
    """Versions from a forward to the use of its gradient; NaN where none was used."""
    staleness_max: NDArray[np.float64]
    events: Mapping[int, Sequence[Event]] = field(default_factory=dict)
    """The first operations of the stages that are to be drawn."""

    @property
    def num_stages(self) -> int:
        """S."""
        return len(self.busy_s)

    @property
    def fresh(self) -> NDArray[np.float64]:
        """(S,): share of the time in work that was for something."""
        return (self.busy_s - self.dropped_s) / (self.end_s or 1.0)

    @property
    def dropped(self) -> NDArray[np.float64]:
        """(S,): share of the time in work that was dropped."""
        return self.dropped_s / (self.end_s or 1.0)

    @property
    def waiting(self) -> NDArray[np.float64]:
        """(S,): the rest."""
        return 1.0 - self.fresh - self.dropped

    def period_s(self) -> float:
        """Seconds per microbatch over the whole run, filling and emptying the chain included."""
        return self.end_s / max(len(self.done_s), 1)

    def steady_period_s(self, window: int = 1) -> float:
        """Seconds per microbatch over the second half of the run, in whole windows of so many microbatches.

        The whole run's where it has no two windows.
        """
        count = max(len(self.done_s) // 2 // window, 1) * window
        if len(self.done_s) <= count:
            return self.period_s()
        return float(self.done_s[-1] - self.done_s[-1 - count]) / count


class StageWatch:
    """Reads the recorders of stages while they are simulated.

    Args:
        stages: in order.
        drawn: those whose first operations are kept, for a picture.
    """

    def __init__(self, stages: Sequence[Stage], *, drawn: Collection[int] = ()) -> None:
        self._stages = stages
        self._turns = [0] * len(stages)
        self._end_s = 0.0
        self._done_s: list[float] = []
        self._staleness: list[Counter[float]] = [Counter() for _ in stages]
        self._events: dict[int, list[Event]] = {index: [] for index in drawn}
        self._losses: deque[float] = deque(maxlen=_LAST_LOSSES)

    def look(self, stage: Stage) -> None:
        """Take down what a stage did, if it is time to."""
        self._turns[stage.index] += 1
        if self._turns[stage.index] % _TURNS_BETWEEN == 0:
            self._take(stage)

    def timing(self) -> Timing:
        """What there is to know at the end."""
        for stage in self._stages:
            self._take(stage)
        totals = [stage.recorder.totals for stage in self._stages]
        return Timing(
            end_s=self._end_s,
            done_s=np.array(sorted(self._done_s)),
            busy_s=np.array([total.busy_s for total in totals]),
            dropped_s=np.array([total.dropped_s for total in totals]),
            forwards=np.array([total.operations.get("F", 0) for total in totals]),
            backwards=np.array([total.operations.get("B", 0) for total in totals]),
            updates=np.array([total.operations.get("U", 0) for total in totals]),
            most_held=np.array([stage.stash.most_held for stage in self._stages]),
            staleness_mean=np.array([_mean(counts) for counts in self._staleness]),
            staleness_max=np.array([max(counts, default=np.nan) for counts in self._staleness]),
            events=self._events,
        )

    def loss(self) -> float | None:
        """Mean loss of the last microbatches, where there is one."""
        return sum(self._losses) / len(self._losses) if self._losses else None

    def _take(self, stage: Stage) -> None:
        recorder = stage.recorder
        for name, _, value in recorder.take_values():
            if name == "staleness":
                self._staleness[stage.index][value] += 1
            elif name == "loss":
                self._losses.append(value)
        worked = [event for event in recorder.take_events() if event.operation in OPERATIONS]
        if worked:
            self._end_s = max(self._end_s, worked[-1].end_s)
        if stage.is_last:
            self._done_s.extend(event.end_s for event in worked if event.operation == "B")
        kept = self._events.get(stage.index)
        if kept is not None and len(kept) < _MOST_EVENTS:
            kept.extend(worked)


def _mean(counts: Counter[float]) -> float:
    total = sum(counts.values())
    return sum(value * count for value, count in counts.items()) / total if total else np.nan
