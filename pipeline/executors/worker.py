"""How does one thread give the stages it drives their turns?

Both executors that run in real time use it: a rank of `distributed` has one worker for all its stages, `threads` has
one for each stage. A worker only waits for its mailbox, in which others put what is for its stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from pipeline.clock import Clock
from pipeline.executors.activity import Activity
from pipeline.executors.session import Session
from pipeline.messages import Input, Message, Send, Stop
from pipeline.stages.arrival import Inbox
from pipeline.stages.stage import Stage
from pipeline.transports.mailbox import Delivery, Mailbox

__all__ = ["Route", "Worker"]

Route: TypeAlias = Callable[[int, Send], None]
"""Takes (from stage, send) for another stage; returns as soon as it is on its way."""


class Worker:
    """Drives some stages on the calling thread.

    Args:
        stages: by index, set up and ready for their first message.
        inboxes: what waits for each of them.
        session: looks at every stage after each message, and saves it when it has drained.
        clock: the stages' own.
        mailbox: where others put what is for these stages.
        route: where what one stage sends another goes.
        messages: what enters the first stage, if it is here.
        arrive: called on this thread with every message just before it is handled.
        activity: is told what this thread does.
    """

    def __init__(
        self,
        stages: Mapping[int, Stage],
        *,
        inboxes: Mapping[int, Inbox],
        session: Session,
        clock: Clock,
        mailbox: Mailbox,
        route: Route,
        messages: Iterator[Message],
        arrive: Callable[[Message], None] = lambda message: None,
        activity: Activity | None = None,
    ) -> None:
        self._stages = stages
        self._inboxes = inboxes
        self._session = session
        self._clock = clock
        self._mailbox = mailbox
        self._route = route
        self._messages = messages
        self._arrive = arrive
        self._activity = activity or Activity()
        self._waited_s = 0.0
        self.num_delivered = 0
        """Messages taken from the mailbox."""
        self.waits = False
        """Whether nothing can be done before something is delivered."""

    def run(self) -> None:
        """Handle messages until every stage here has finished.

        Raises:
            StageFailure: a stage failed.
            BaseException: what was put into the mailbox to stop this worker.
        """
        started_s = self._clock.now()
        order = sorted(self._stages, reverse=True)  # upper stages first: they let the lower ones go on
        while not all(stage.finished for stage in self._stages.values()):
            self.take_delivered()
            turns = [self._take_turn(index) for index in order]
            if not any(turns):
                self._wait_delivered()
        self._account(self._clock.now() - started_s)

    def take_delivered(self) -> None:
        """Let everything that was delivered wait for its turn; do not wait for more."""
        while not self._mailbox.empty():
            self.accept(self._mailbox.get())

    def accept(self, delivery: Delivery) -> None:
        """Let one delivery wait for its turn, on this worker's thread; a failure is raised."""
        if isinstance(delivery, BaseException):
            raise delivery
        self.num_delivered += 1
        sender, receiver, message = delivery
        if sender > receiver and isinstance(message, Stop):
            return  # closes the edge; a stage is stopped from below only
        self._put(sender, receiver, message)

    def describe(self) -> str:
        """The state of the stages here in one line, for the message of a deadlock."""
        return "; ".join(inbox.describe(self._stages[index]) for index, inbox in self._inboxes.items())

    def _take_turn(self, index: int) -> bool:
        stage, inbox = self._stages[index], self._inboxes[index]
        if index == 0 and not inbox.below and stage.accepts_activation:
            self._activity.begin("data", stage=0)
            stage.recorder.begin()
            if (entering := next(self._messages, None)) is not None:
                inbox.put_below(entering)
            stage.recorder.end_untraced("data")
        waiting = inbox.turn(stage)
        if waiting is None:
            return False
        _, message = waiting.popleft()
        self._activity.handle(stage, message.step)
        self._arrive(message)
        for send in stage.work(message):
            self._send(index, send)
        if (drain := stage.drained) is not None:
            self._activity.begin("checkpoint", stage=index, step=drain.step)
            stage.recorder.begin()
            self._session.drained(stage, drain)
            stage.recorder.end_untraced("save")
            stage.resume()
        stage.recorder.totals.handled += 1
        self._session.look(stage)
        return True

    def _send(self, sender: int, send: Send) -> None:
        if send.to == sender:  # a last stage that defers
            self._put(sender, sender, send.message)
        else:
            self._route(sender, send)

    def _put(self, sender: int, receiver: int, message: Message) -> None:
        if isinstance(message, Input):
            self._inboxes[receiver].put_input(message)
        elif sender >= receiver:
            self._inboxes[receiver].put_above(message)
        elif dropped := self._inboxes[receiver].put_below(message):
            for answer in self._stages[receiver].drop(dropped):
                self._send(receiver, answer)

    def _wait_delivered(self) -> None:
        started_s = self._clock.now()
        self._activity.begin("waiting")
        self.waits = True
        delivery = self._mailbox.get()
        self.waits = False
        waited_s = self._clock.now() - started_s
        self.accept(delivery)
        self._waited_s += waited_s
        for stage in self._stages.values():
            if not stage.finished:
                stage.recorder.waited(waited_s)

    def _account(self, elapsed_s: float) -> None:
        """What the thread did beside its stages' own work, in equal shares."""
        totals = [stage.recorder.totals for stage in self._stages.values()]
        own_s = sum(sum(total.seconds.values()) for total in totals)
        for total in totals:
            total.overhead_s = (elapsed_s - self._waited_s - own_s) / len(totals)
