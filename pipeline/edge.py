"""How do messages get from a stage on one rank to a neighbour on another, over gloo?

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
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.messages import Activation, Drain, Gradient, Message, Stop
from pipeline.wire import FIRST_CAPACITY_BYTES, HEADER_BYTES, Header, Schema, decode, encode_header, parts, read_header

__all__ = ["Receiver", "Sender"]

_UNUSED_TAG = 7


@dataclass
class _Slot:
    """A send buffer of our own: a header, and room for a payload."""

    buffer: Tensor = field(default_factory=lambda: torch.empty(HEADER_BYTES, dtype=torch.uint8))
    layout: tuple[Schema, int] | None = None
    views: list[Tensor | None] = field(default_factory=list)
    num_bytes: int = HEADER_BYTES
    """Of the buffer that are to be sent."""

    def lay_out(self, schema: Schema, num_samples: int, *, pin: bool) -> None:
        """Make room for N samples of `schema`; `views` are the members."""
        if self.layout != (schema, num_samples):
            num_bytes = HEADER_BYTES + schema.payload_bytes(num_samples)
            self.buffer = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=pin)
            self.views = schema.views(self.buffer[HEADER_BYTES:], num_samples)
            self.layout = (schema, num_samples)
        self.num_bytes = self.buffer.numel()


class Sender:
    """The sending end of a directed edge: a thread that blocks until each message has gone.

    Args:
        sender: index of the stage that sends.
        receiver: index of the stage that receives.
        peer: rank of the receiving stage.
        group: the edge's own process group.
        num_slots: messages that may be on their way before `send` waits for the oldest.
        failed: called from the thread with the exception that ended it.
    """

    def __init__(
        self,
        *,
        sender: int,
        receiver: int,
        peer: int,
        group: dist.ProcessGroup,
        num_slots: int,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._ends = (sender, receiver)
        self._peer = peer
        self._group = group
        self._place = dist.get_group_rank(group, peer)
        self._failed = failed
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(num_slots):
            self._free.put(_Slot())
        self._filled: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"edge {sender}-{receiver}, sends", daemon=True)
        self._sequence = 0
        self._schema: Schema | None = None
        self._schema_number = 0
        self._capacity = FIRST_CAPACITY_BYTES
        self.num_bytes = 0

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def send(self, message: Message) -> None:
        """Copy the message into a buffer of the edge's own and hand it to the sending thread."""
        tensors, schema, num_samples = parts(message)
        payload_bytes = schema.payload_bytes(num_samples)
        if tensors and (schema != self._schema or HEADER_BYTES + payload_bytes > self._capacity):
            self._announce(schema, payload_bytes)
        slot = self._free.get()
        slot.num_bytes = HEADER_BYTES
        if tensors:
            slot.lay_out(schema, num_samples, pin=any(tensor is not None and tensor.is_cuda for tensor in tensors))
            for view, tensor in zip(slot.views, tensors, strict=True):
                if view is not None and tensor is not None:
                    view.copy_(tensor)
        self._hand_over(slot, self._header(message, num_samples=num_samples, payload_bytes=payload_bytes))

    def wait_stopped(self, timeout_s: float | None = None) -> None:
        """Wait until everything has been sent, and end the thread."""
        self._filled.put(None)
        self._thread.join(timeout_s)

    def abort(self) -> None:
        """Break the connection: both ends' blocked calls raise. For a run that has failed."""
        _close_pairs(self._group, self._peer)

    def _run(self) -> None:
        """Send in order. A slot is free once the send from it was waited for, which is done when the next one comes:
        so the thread needs the interpreter lock once a message, and not again when a message has gone."""
        sent: tuple[_Slot, Any] | None = None
        try:
            while (slot := self._filled.get()) is not None:
                self._wait_sent(sent)
                sent = slot, self._group.send([slot.buffer[: slot.num_bytes]], self._place, 0)
            self._wait_sent(sent)
        except BaseException as error:
            self._failed(error)
            self._free.put(_Slot())  # whoever waits for a free one goes on and learns of the failure

    def _wait_sent(self, sent: tuple[_Slot, Any] | None) -> None:
        if sent is not None:
            slot, work = sent
            work.wait()
            self._free.put(slot)

    def _announce(self, schema: Schema, payload_bytes: int) -> None:
        """Say what is in the payloads from here on, and how large a buffer they need."""
        self._schema, self._schema_number = schema, self._schema_number + 1
        self._capacity = max(self._capacity, HEADER_BYTES + payload_bytes)
        announcement = torch.frombuffer(bytearray(schema.to_bytes(self._capacity)), dtype=torch.uint8)
        sender, receiver = self._ends
        header = Header(
            kind="schema",
            sender=sender,
            receiver=receiver,
            sequence=self._sequence,
            payload_bytes=announcement.numel(),
            schema=self._schema_number,
        )
        slot = self._free.get()
        slot.buffer = torch.cat([torch.empty(HEADER_BYTES, dtype=torch.uint8), announcement])
        slot.layout, slot.num_bytes = None, slot.buffer.numel()
        assert slot.num_bytes <= FIRST_CAPACITY_BYTES, "a boundary carries at most some forty tensors"
        self._hand_over(slot, header)

    def _hand_over(self, slot: _Slot, header: Header) -> None:
        slot.buffer.numpy()[:HEADER_BYTES] = memoryview(encode_header(header))
        self._sequence += 1
        self.num_bytes += slot.num_bytes
        self._filled.put(slot)

    def _header(self, message: Message, *, num_samples: int, payload_bytes: int) -> Header:
        sender, receiver = self._ends
        common: dict[str, Any] = {
            "sender": sender,
            "receiver": receiver,
            "sequence": self._sequence,
            "step": message.step,
            "num_samples": num_samples,
            "payload_bytes": payload_bytes,
            "schema": self._schema_number,
        }
        match message:
            case Activation():
                return Header(
                    kind="activation",
                    version=message.version,
                    generation=message.generation,
                    reach=message.reach,
                    training=message.training,
                    **common,
                )
            case Gradient():
                return Header(
                    kind="gradient",
                    version=message.version,
                    generation=message.generation,
                    exact=message.exact,
                    has_value=message.value is not None,
                    dropped=message.dropped,
                    **common,
                )
            case Drain():
                return Header(kind="drain", save=message.save, finish=message.finish, **common)
            case Stop():
                return Header(kind="stop", **common)


class Receiver:
    """The receiving end of a directed edge: a thread that blocks until something comes.

    Args:
        sender: index of the stage that sends.
        receiver: index of the stage that receives.
        peer: rank of the sending stage.
        group: the edge's own process group.
        deliver: called from the thread with each message; a Stop is the last.
        failed: called from the thread with the exception that ended it.
    """

    def __init__(
        self,
        *,
        sender: int,
        receiver: int,
        peer: int,
        group: dist.ProcessGroup,
        deliver: Callable[[Message], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._ends = (sender, receiver)
        self._peer = peer
        self._group = group
        self._place = dist.get_group_rank(group, peer)
        self._deliver, self._failed = deliver, failed
        self._thread = threading.Thread(target=self._run, name=f"edge {sender}-{receiver}, receives", daemon=True)

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def wait_stopped(self, timeout_s: float | None = None) -> None:
        """Wait for the Stop (or the failure) that ends the thread."""
        self._thread.join(timeout_s)

    def abort(self) -> None:
        """Wake the thread by breaking the connection. For a run that has failed."""
        _close_pairs(self._group, self._peer)

    def _run(self) -> None:
        try:
            schema: Schema | None = None
            capacity = FIRST_CAPACITY_BYTES
            sequence = 0
            while True:
                buffer = torch.empty(capacity, dtype=torch.uint8)
                self._group.recv([buffer], self._place, 0).wait()
                header = read_header(
                    buffer.numpy()[:HEADER_BYTES].tobytes(),
                    sender=self._ends[0],
                    receiver=self._ends[1],
                    sequence=sequence,
                    capacity=capacity,
                )
                sequence += 1
                payload = buffer[HEADER_BYTES : HEADER_BYTES + header.payload_bytes]
                if header.kind == "schema":
                    schema, capacity = Schema.from_bytes(payload.numpy().tobytes())
                    continue
                message = decode(header, schema, payload)
                self._deliver(message)
                if isinstance(message, Stop):
                    return
        except BaseException as error:
            self._failed(error)


def _close_pairs(group: dist.ProcessGroup, peer: int) -> None:
    """Let a wait expire on purpose: gloo then closes all pairs of the group, which wakes whoever is blocked on it."""
    with contextlib.suppress(RuntimeError):  # it expires as meant, or the pair was closed already
        work = dist.irecv(torch.empty(1, dtype=torch.uint8), peer, group=group, tag=_UNUSED_TAG)
        if work is not None:
            work.wait(timedelta(milliseconds=1))
