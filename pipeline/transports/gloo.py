"""How do messages get to a rank anywhere, over gloo?

Facts this file rests on (torch 2.13, measured): a receive buffer that is too small kills the process, one that is too
large is filled in part, so the receiver posts one buffer of an announced capacity and the header at its front says how
much of it counts; a send buffer is read only when the receiver posts, so a message is copied into a buffer that the
edge owns until it was sent; `isend` costs the calling thread some 500 us on a busy machine and polling does not work,
so each end has a thread that blocks, in the group's own methods (they release the interpreter lock; `dist.send` and
`dist.recv` around them run some 50 us of Python, for which the stage's thread would have to wait); one expired wait
closes every pair of its group, so each directed edge has a group of its own, no wait has a short timeout, and an
expired wait is how a blocked thread is woken when a run fails.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.messages import Message
from pipeline.transports.edge import EdgeStatistics
from pipeline.transports.frames import Frame, Incoming, Outgoing
from pipeline.transports.staging import Landing, copy_members
from pipeline.transports.wire import HEADER_BYTES

__all__ = ["GlooIntake", "GlooSender"]

_UNUSED_TAG = 7


class GlooSender:
    """The sending end: a thread that blocks until each message has gone.

    Args:
        outgoing: the edge's frames.
        group: the edge's own process group, of the two ranks.
        num_slots: frames that may be on their way before `send` waits for the oldest; at least two.
        failed: called from the thread with the exception that ended it.
    """

    def __init__(
        self,
        *,
        outgoing: Outgoing,
        group: dist.ProcessGroup,
        num_slots: int,
        failed: Callable[[BaseException], None],
    ) -> None:
        assert num_slots > 1, "the thread gives a slot back when it takes the next one"
        self._outgoing = outgoing
        self._group, self._peer = group, 1 - group.rank()
        self._failed = failed
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(num_slots):
            self._free.put(_Slot())
        self._filled: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()
        sender, receiver = outgoing.ends
        self._thread = threading.Thread(target=self._run, name=f"edge {sender}-{receiver}, sends", daemon=True)
        self._is_lost = False
        self._num_waits = 0

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def send(self, message: Message) -> None:
        """Copy the message into a buffer of the edge's own and hand it to the sending thread."""
        if self._is_lost:
            return
        for frame in self._outgoing.frames(message):
            self._num_waits += self._free.empty()
            slot = self._free.get()
            if self._is_lost:
                self._free.put(slot)
                return
            slot.fill(frame)
            self._filled.put(slot)

    def wait_stopped(self, timeout_s: float | None = None) -> None:
        """Wait until everything has been sent, and end the thread."""
        self._filled.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def abort(self) -> None:
        """Break the connection: both ends' blocked calls raise."""
        _close_pairs(self._group, self._peer)

    def statistics(self) -> EdgeStatistics:
        """What has been handed over."""
        outgoing = self._outgoing
        return EdgeStatistics(
            kind="gloo",
            num_messages=outgoing.num_messages,
            num_bytes=outgoing.num_bytes,
            num_waits=self._num_waits,
        )

    def _run(self) -> None:
        """Send in order. A slot is free once the send from it was waited for, which is done when the next one comes:
        so the thread needs the interpreter lock once a message, and not again when a message has gone."""
        sent: tuple[_Slot, Any] | None = None
        try:
            while (slot := self._filled.get()) is not None:
                self._wait_sent(sent)
                sent = slot, self._group.send([slot.buffer[: slot.num_bytes]], self._peer, 0)
            self._wait_sent(sent)
        except BaseException as error:
            self._is_lost = True
            self._free.put(_Slot())  # whoever waits for a free one goes on
            self._failed(error)

    def _wait_sent(self, sent: tuple[_Slot, Any] | None) -> None:
        if sent is not None:
            slot, work = sent
            work.wait()
            self._free.put(slot)


class GlooIntake:
    """What the receiving end waits with.

    Args:
        incoming: the edge's frames.
        group: the edge's own process group, of the two ranks.
        landing: takes tensors to the device of the stage they are for.
    """

    kind = "gloo"

    def __init__(self, *, incoming: Incoming, group: dist.ProcessGroup, landing: Landing) -> None:
        self.incoming = incoming
        self._group, self._peer = group, 1 - group.rank()
        self._landing = landing

    def wait_message(self) -> Message:
        """The next message; on the CPU its tensors lie in the buffer it was received into."""
        incoming = self.incoming
        while True:
            buffer = self._landing.room(incoming.capacity)
            self._group.recv([buffer], self._peer, 0).wait()
            header = incoming.read(buffer[:HEADER_BYTES].numpy().tobytes())
            payload = buffer[HEADER_BYTES : HEADER_BYTES + header.payload_bytes]
            if header.kind == "schema":
                incoming.learn(payload.numpy().tobytes())
                continue
            members = incoming.schema.views(payload, header.num_samples) if header.carries_tensors else []
            return incoming.message(header, self._landing.take(members))

    def abort(self) -> None:
        """Break the connection: both ends' blocked calls raise."""
        _close_pairs(self._group, self._peer)

    def close(self) -> None:
        """The group is given back with all others."""


class _Slot:
    """A send buffer of our own: a header, and room for a payload."""

    def __init__(self) -> None:
        self.buffer = torch.empty(HEADER_BYTES, dtype=torch.uint8)
        self.num_bytes = HEADER_BYTES
        """Of the buffer that are to be sent."""
        self._layout = (-1, 0)
        self._views: list[Tensor | None] = []

    def fill(self, frame: Frame) -> None:
        """Become a copy of the frame."""
        if frame.tensors:
            self._lay_out(frame)
            copy_members(frame.tensors, self._views)
        self.num_bytes = HEADER_BYTES + frame.payload_bytes
        self.buffer.numpy()[:HEADER_BYTES] = memoryview(frame.header)

    def _lay_out(self, frame: Frame) -> None:
        """Make room for the payload. Consecutive payloads are mostly alike, so the views are kept."""
        layout = frame.layout, frame.num_samples
        if self._layout == layout:
            return
        if self.buffer.numel() < HEADER_BYTES + frame.payload_bytes:
            pin = any(tensor is not None and tensor.is_cuda for tensor in frame.tensors)
            self.buffer = torch.empty(HEADER_BYTES + frame.payload_bytes, dtype=torch.uint8, pin_memory=pin)
        self._views = frame.schema.views(self.buffer[HEADER_BYTES:], frame.num_samples)
        self._layout = layout


def _close_pairs(group: dist.ProcessGroup, peer: int) -> None:
    """Let a wait expire on purpose: gloo then closes all pairs of the group, which wakes whoever is blocked on it."""
    with contextlib.suppress(RuntimeError):  # it expires as meant, or the pair was closed already
        group.recv([torch.empty(1, dtype=torch.uint8)], peer, _UNUSED_TAG).wait(timedelta(milliseconds=1))
