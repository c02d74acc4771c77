"""What happens when every stage has its own device, played on one thread in virtual time?

The stages are the real ones; what they compute may be real, too, or only take time (`pipeline.virtual_time.timed`).
Time is made up, by a cost model. Every message arrives at its time, queues drop what is too much at that time, and a
stage that is free takes what has arrived; so the same configuration gives the same trace on every machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from pipeline.clock import VirtualClock
from pipeline.messages import Drain, Input, Message, Send
from pipeline.stages.arrival import Inbox
from pipeline.stages.stage import Stage
from pipeline.virtual_time.costs import CostModel
from pipeline.virtual_time.links import Links

__all__ = ["simulate"]

_MOST_DESCRIBED = 8
"""Stages that the message of a deadlock describes."""


def simulate(
    stages: Sequence[Stage],
    messages: Iterator[Message],
    *,
    inboxes: Sequence[Inbox],
    clock: VirtualClock,
    costs: CostModel,
    on_drained: Callable[[Stage, Drain], None],
    on_turn: Callable[[Stage], None] = lambda stage: None,
    on_send: Callable[[int, Send], None] = lambda sender, send: None,
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
        on_send: called with the sender of every message and what it sends (to count it).

    Returns:
        The virtual time at which the last stage finished.
    """
    simulation = _Simulation(stages, messages, inboxes=inboxes, clock=clock, costs=costs, on_send=on_send)
    for stage in simulation.turns():
        if (drain := stage.drained) is not None:
            on_drained(stage, drain)
            stage.resume()
        on_turn(stage)
    return simulation.end_s


class _Simulation:
    """The messages on their way, and when each stage is free.

    On the heap: (time, number, stage, message, whether it comes from below); the number keeps the order of what happens
    at the same time. Without a message the stage is to look whether it can go on.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        messages: Iterator[Message],
        *,
        inboxes: Sequence[Inbox],
        clock: VirtualClock,
        costs: CostModel,
        on_send: Callable[[int, Send], None],
    ) -> None:
        self._stages, self._inboxes = stages, inboxes
        self._feed: Iterator[Message] | None = messages
        self._clock = clock
        self._on_send = on_send
        self._links = Links(costs, num_stages=len(stages))
        self._free_at_s = [0.0] * len(stages)
        self._number = 0
        self._heap: list[tuple[float, int, int, Message | None, bool]] = []

    @property
    def end_s(self) -> float:
        """When the last stage was done."""
        return max(self._free_at_s)

    def turns(self) -> Iterator[Stage]:
        """Let every stage take its turns in the order of time; yields each before it is free again."""
        self._push(0.0, 0, None)
        while self._heap:
            now_s = self._heap[0][0]
            for index in self._arrive(now_s):
                if self._starts(index, now_s):
                    yield self._stages[index]
                    self._free_at_s[index] = self._clock.time_s
                    self._push(self._clock.time_s, index, None)
        stuck = [index for index, stage in enumerate(self._stages) if not stage.finished]
        assert not stuck, f"no stage can go on: {self._describe(stuck)}"

    def _arrive(self, now_s: float) -> list[int]:
        """Put everything that arrives now into the inboxes; the stages that may go on, in order."""
        self._clock.time_s = now_s
        concerned = set()
        while self._heap and self._heap[0][0] == now_s:
            _, _, index, message, from_below = heapq.heappop(self._heap)
            concerned.add(index)
            if message is None:
                continue
            if isinstance(message, Input):
                self._inboxes[index].put_input(message, arrived_s=now_s)
            elif not from_below:
                self._inboxes[index].put_above(message, arrived_s=now_s)
            elif dropped := self._inboxes[index].put_below(message, arrived_s=now_s):
                for answer in self._stages[index].drop(dropped):
                    self._send(answer, sender=index)
        return sorted(concerned)

    def _starts(self, index: int, now_s: float) -> bool:
        """Let a stage handle the message whose turn it is, if it is free, awake, and there is one."""
        if self._free_at_s[index] > now_s:
            return False
        self._clock.time_s = now_s
        awake_s = self._clock.awake_s(index)
        if awake_s > now_s:
            self._push(awake_s, index, None)
            return False
        message = self._next_message(index)
        if message is None:
            return False
        stage = self._stages[index]
        stage.recorder.waited(now_s - self._free_at_s[index])
        for send in stage.work(message):
            self._send(send, sender=index)
        return True

    def _next_message(self, index: int) -> Message | None:
        stage, inbox = self._stages[index], self._inboxes[index]
        if index == 0 and self._feed is not None and not inbox.below and stage.accepts_activation:
            entering = next(self._feed, None)
            if entering is None:
                self._feed = None
            else:
                inbox.put_below(entering, arrived_s=self._clock.time_s)
        queue = inbox.turn(stage)
        return None if queue is None else queue.popleft()[1]

    def _send(self, send: Send, *, sender: int) -> None:
        self._on_send(sender, send)
        arrival_s = self._links.arrival_s(send.message, sender=sender, to=send.to, now_s=self._clock.time_s)
        self._push(arrival_s, send.to, send.message, from_below=send.to > sender)

    def _push(self, time_s: float, index: int, message: Message | None, *, from_below: bool = False) -> None:
        self._number += 1
        heapq.heappush(self._heap, (time_s, self._number, index, message, from_below))

    def _describe(self, stuck: Sequence[int]) -> str:
        """The state of the stages that have not finished, a line's worth each."""
        lines = []
        for index in islice(stuck, _MOST_DESCRIBED):
            stage, inbox = self._stages[index], self._inboxes[index]
            lines.append(inbox.describe(stage))
        more = len(stuck) - len(lines)
        return "; ".join(lines) + (f"; and {more} stages more" if more > 0 else "")
