"""What happens when every stage has its own device, played on one thread in virtual time?

The stages are the real ones and do the real mathematics; only the time is made up, by a cost model. The same
configuration gives the same trace on every machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.arrival import Inbox
from pipeline.clock import VirtualClock
from pipeline.messages import Drain, Message, Send
from pipeline.stage import Stage

__all__ = ["CostModel", "simulate"]


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Virtual seconds for each operation of every stage and for each message between two stages."""

    forward_s: float = 1.0
    backward_s: float = 2.0
    """The estimate included."""
    learn_s: float = 0.5
    update_s: float = 0.1
    message_s: float = 0.01

    def operation_s(self, stage: int, operation: str) -> float:
        """The cost of `F`, `R` (forward again), `B`, `L` or `U`; all stages are alike."""
        costs = {
            "F": self.forward_s,
            "R": self.forward_s,
            "B": self.backward_s,
            "L": self.learn_s,
            "U": self.update_s,
        }
        return costs[operation]


def simulate(
    stages: Sequence[Stage],
    messages: Iterator[Message],
    *,
    inboxes: Sequence[Inbox],
    clock: VirtualClock,
    costs: CostModel,
    on_drained: Callable[[Stage, Drain], None],
    on_turn: Callable[[Stage], None] = lambda stage: None,
) -> float:
    """Run `stages` until all have finished.

    Args:
        stages: in order; their recorders use `clock`.
        messages: what enters the first stage, pulled as it accepts.
        inboxes: what waits for each stage.
        clock: set to each turn's start, advanced by the stage's own operations.
        costs: what a message's way costs.
        on_drained: called when a stage has drained, before it resumes (to save it).
        on_turn: called with the stage after every message (to look at it).

    Returns:
        The virtual time at which the last stage finished.
    """
    free_at_s = [0.0] * len(stages)
    exhausted = False
    while not all(stage.finished for stage in stages):
        first = stages[0]
        if not exhausted and not inboxes[0].below and first.accepts_activation:
            message = next(messages, None)
            exhausted = message is None
            if message is not None:
                inboxes[0].put_below(message)
        index, queue, start_s = _next_turn(stages, inboxes, free_at_s)
        stage = stages[index]
        _, message = queue.popleft()
        clock.time_s = start_s
        stage.recorder.waited(start_s - free_at_s[index])
        for send in stage.work(message):
            _deliver(stages, inboxes, send, sender=index, costs=costs, now_s=clock.time_s)
        if (drain := stage.drained) is not None:
            on_drained(stage, drain)
            stage.resume()
        free_at_s[index] = clock.time_s
        on_turn(stage)
    return max(free_at_s)


def _next_turn(
    stages: Sequence[Stage], inboxes: Sequence[Inbox], free_at_s: Sequence[float]
) -> tuple[int, deque[tuple[float, Message]], float]:
    """The stage that can start earliest (the lower one of two), its queue and the start."""
    best: tuple[float, int, deque[tuple[float, Message]]] | None = None
    for index, (stage, inbox) in enumerate(zip(stages, inboxes, strict=True)):
        for queue in inbox.open(stage):
            start_s = max(free_at_s[index], queue[0][0])
            if best is None or start_s < best[0]:
                best = (start_s, index, queue)
    assert best is not None, f"no stage can go on: {[i.describe(s) for s, i in zip(stages, inboxes, strict=True)]}"
    start_s, index, queue = best
    return index, queue, start_s


def _deliver(
    stages: Sequence[Stage], inboxes: Sequence[Inbox], send: Send, *, sender: int, costs: CostModel, now_s: float
) -> None:
    arrived_s = now_s + (costs.message_s if send.to != sender else 0.0)
    if send.to <= sender:
        inboxes[send.to].put_above(send.message, arrived_s=arrived_s)
    elif dropped := inboxes[send.to].put_below(send.message, arrived_s=arrived_s):
        for answer in stages[send.to].drop(dropped):
            _deliver(stages, inboxes, answer, sender=send.to, costs=costs, now_s=arrived_s)
