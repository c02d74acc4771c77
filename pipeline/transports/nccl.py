"""How do messages get from one GPU to another, over NCCL?

Facts this file rests on (NCCL's and PyTorch's documentation and issues; not measured here): operations of one
communicator happen in the order in which both ends queue them, so each directed edge has a communicator of its own, and
a header goes before its payload on the same one; a send is a kernel that waits on the GPU for the receiver's, so the
buffer it reads is the edge's own until an event says that it is done; waiting for an operation makes a stream wait, not
the thread, so the receiving thread sleeps on an event; a peer that dies leaves the kernels waiting, and only an abort
of the communicator ends them; two ranks on one GPU are refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.messages import Message
from pipeline.transports.edge import EdgeStatistics
from pipeline.transports.frames import Frame, Incoming, Outgoing
from pipeline.transports.wire import HEADER_BYTES, Header

__all__ = ["NcclIntake", "NcclSender"]


class NcclSender:
    """The sending end: the stage's thread queues copies and sends, and waits only while all slots are on their way.

    To make it waits until the other end is made; ranks make their ends in one order for all edges.

    Args:
        outgoing: the edge's frames.
        group: the edge's own process group, of the two ranks.
        device: the GPU of the stage that sends.
        num_slots: frames that may be on their way before `send` waits for the oldest.
        failed: called by `send` with the exception that says that the other end is gone.
    """

    def __init__(
        self,
        *,
        outgoing: Outgoing,
        group: dist.ProcessGroup,
        device: torch.device,
        num_slots: int,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._outgoing = outgoing
        self._group, self._peer = group, 1 - group.rank()
        self._device = device
        self._failed = failed
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._slots = [_Slot(device) for _ in range(num_slots)]
        self._is_lost = False
        self._num_waits = 0
        _meet(group.send, peer=self._peer, device=device)

    def start(self) -> None:
        """There is nothing to start: whoever sends queues it on the GPU."""

    def send(self, message: Message) -> None:
        """Queue a copy of the message into a buffer of the edge's own, and the sending of it."""
        if self._is_lost:
            return
        try:
            for frame in self._outgoing.frames(message):
                self._queue(self._wait_slot(frame.sequence), frame)
        except dist.DistError as error:
            self._lose(error)

    def wait_stopped(self, timeout_s: float | None = None) -> None:
        """Wait until everything has been sent."""
        deadline_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while any(slot.is_busy() for slot in self._slots) and time.monotonic() < deadline_s:
            time.sleep(0.001)

    def abort(self) -> None:
        """Abort the communicator: the kernels that wait on this GPU end."""
        self._is_lost = True
        self._group.abort()

    def statistics(self) -> EdgeStatistics:
        """What has been queued."""
        outgoing = self._outgoing
        return EdgeStatistics(
            kind="nccl",
            num_messages=outgoing.num_messages,
            num_bytes=outgoing.num_bytes,
            num_waits=self._num_waits,
        )

    def _wait_slot(self, sequence: int) -> _Slot:
        slot = self._slots[sequence % len(self._slots)]
        if slot.is_busy():
            self._num_waits += 1
            slot.sent.synchronize()
        return slot

    def _queue(self, slot: _Slot, frame: Frame) -> None:
        """The copies are queued on the stage's stream, behind what makes the tensors and before what may change them;
        the edge's stream takes over from there."""
        buffers = slot.fill(frame)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for buffer in buffers:
                self._group.send([buffer], self._peer, 0).wait()
            slot.sent.record(self._stream)

    def _lose(self, error: BaseException) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._failed(error)


class NcclIntake:
    """What the receiving end waits with. To make it waits until the other end is made.

    Args:
        incoming: the edge's frames.
        group: the edge's own process group, of the two ranks.
        device: the GPU of the stage that receives.
    """

    kind = "nccl"

    def __init__(self, *, incoming: Incoming, group: dist.ProcessGroup, device: torch.device) -> None:
        self.incoming = incoming
        self._group, self._peer = group, 1 - group.rank()
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Not blocking, the thread that waits for it would keep a core busy.
        self._received = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._header = torch.empty(HEADER_BYTES, dtype=torch.uint8, device=device)
        self._is_aborted = False
        _meet(group.recv, peer=self._peer, device=device)

    def wait_message(self) -> Message:
        """The next message, on this GPU."""
        incoming = self.incoming
        with torch.cuda.stream(self._stream):  # else what is copied here would wait for what the stage computes
            while (header := self._wait_header()).kind == "schema":
                incoming.learn(self._wait_payload(header).cpu().numpy().tobytes())
            if not header.carries_tensors:
                return incoming.message(header, [])
            payload = self._wait_payload(header)
        # It is the stage's from here on: its memory must not be used again before the stage's stream is done with it.
        payload.record_stream(torch.cuda.default_stream(self._device))
        return incoming.message(header, incoming.schema.views(payload, header.num_samples))

    def abort(self) -> None:
        """Abort the communicator: the kernel that waits on this GPU ends, and with it the thread."""
        self._is_aborted = True
        self._group.abort()

    def close(self) -> None:
        """The group is given back with all others."""

    def _wait_header(self) -> Header:
        self._wait_received(self._header)
        return self.incoming.read(self._header.cpu().numpy().tobytes())

    def _wait_payload(self, header: Header) -> Tensor:
        payload = torch.empty(header.payload_bytes, dtype=torch.uint8, device=self._device)
        if header.payload_bytes:
            self._wait_received(payload)
        return payload

    def _wait_received(self, buffer: Tensor) -> None:
        self._group.recv([buffer], self._peer, 0).wait()
        self._received.record(self._stream)
        self._received.synchronize()
        if self._is_aborted:
            raise ConnectionAbortedError("the communicator was aborted")


class _Slot:
    """Buffers of our own on the GPU: a header, and room for a payload."""

    def __init__(self, device: torch.device) -> None:
        self.sent = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        """Once it has happened, the slot is free; an event that was never recorded counts as happened."""
        self._pinned = torch.empty(HEADER_BYTES, dtype=torch.uint8, pin_memory=True)
        self._header = torch.empty(HEADER_BYTES, dtype=torch.uint8, device=device)
        self._payload = torch.empty(0, dtype=torch.uint8, device=device)
        self._layout = (-1, 0)
        self._views: list[Tensor | None] = []

    def is_busy(self) -> bool:
        """Whether what was sent from it is still on its way."""
        return not self.sent.query()  # type: ignore[no-untyped-call]

    def fill(self, frame: Frame) -> list[Tensor]:
        """Queue copies of the frame on the current stream; what is to be sent."""
        self._pinned.numpy()[:] = memoryview(frame.header)
        self._header.copy_(self._pinned, non_blocking=True)
        if not frame.payload_bytes:
            return [self._header]
        if self._layout != (frame.layout, frame.num_samples):
            self._layout = frame.layout, frame.num_samples
            if self._payload.numel() < frame.payload_bytes:
                self._payload = torch.empty(frame.payload_bytes, dtype=torch.uint8, device=self._payload.device)
            self._views = frame.schema.views(self._payload, frame.num_samples)
        for view, tensor in zip(self._views, frame.tensors, strict=True):
            if view is not None and tensor is not None:
                view.copy_(tensor)
        return [self._header, self._payload[: frame.payload_bytes]]


def _meet(operation: Callable[[list[Tensor], int, int], dist.Work], *, peer: int, device: torch.device) -> None:
    """Make the communicator of an edge: NCCL does so at the first operation, and waits until both ends take part."""
    operation([torch.zeros(1, device=device)], peer, 0).wait()
    torch.cuda.synchronize(device)
