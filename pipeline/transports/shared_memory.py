"""How do messages get to a rank on the same host? Through memory that both have mapped.

Payloads lie in a ring of slots in a segment without a name (`memfd_create`), which the sending end makes and hands over
through a Unix socket. So the kernel frees it when both processes are gone, however they went. Headers take the socket:
they wake the receiving thread, their order is the socket's, and the death of a process is seen at once as the socket's
end. Frame i lies in slot i modulo the ring's length; the receiver copies it out at once, and says from time to time how
far it has come, which is what frees slots. Nothing is pickled, and the sending end needs no thread.

What is sent in one call is at most an announcement long (4 KiB), so the kernel never parts it, and whoever reads gets
all of it or the connection's end.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable

from torch import Tensor

from pipeline.errors import RunError
from pipeline.messages import Message
from pipeline.transports.edge import EdgeStatistics
from pipeline.transports.frames import Frame, Incoming, Outgoing
from pipeline.transports.ring import Ring
from pipeline.transports.staging import Landing, copy_members
from pipeline.transports.unix_socket import shut_down
from pipeline.transports.wire import HEADER_BYTES, Header

__all__ = ["SharedIntake", "SharedSender"]

_COUNT = struct.Struct("<I")


def _wait_readable(connection: socket.socket, timeout_s: float | None) -> bool:
    ready, _, _ = select.select([connection], [], [], timeout_s)
    return bool(ready)


class SharedSender:
    """The sending end.

    Args:
        outgoing: the edge's frames.
        connection: to the receiving end.
        num_slots: frames that may be on their way before `send` waits for the receiver to take some.
        failed: called by `send` with the exception that says that the other end is gone.
        wait_readable: called before something is read from the connection, with it and the seconds to wait, None for
            as long as it takes; waits for something to read and does meanwhile what else has to go on.
    """

    def __init__(
        self,
        *,
        outgoing: Outgoing,
        connection: socket.socket,
        num_slots: int,
        failed: Callable[[BaseException], None],
        wait_readable: Callable[[socket.socket, float | None], bool] = _wait_readable,
    ) -> None:
        self._outgoing = outgoing
        self._socket = connection
        self._num_slots = num_slots
        self._failed = failed
        self._wait_readable = wait_readable
        self._ring: Ring | None = None
        self._num_taken = 0
        self._num_waits = 0
        self._is_lost = False

    def start(self) -> None:
        """There is nothing to start: whoever sends writes into the ring."""

    def send(self, message: Message) -> None:
        """Copy the message into the ring and say so. Waits while the ring is full."""
        if self._is_lost:
            return
        try:
            for frame in self._outgoing.frames(message):
                self._wait_slot(frame.sequence)
                if frame.announced_bytes:
                    self._announce(frame)
                else:
                    self._write(frame)
        except ConnectionError as error:
            self._is_lost = True
            self._failed(error)

    def wait_stopped(self, timeout_s: float | None = None) -> None:
        """Wait until the receiver has taken everything, and let go of the ring and the connection."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with contextlib.suppress(OSError):  # gone, aborted, too slow or closed before: nothing more is to be done
            while not self._is_lost and self._num_taken < self._outgoing.num_frames:
                if not self._wait_taken(None if deadline_s is None else max(deadline_s - time.monotonic(), 0.0)):
                    break
        self._socket.close()
        self._ring = None

    def abort(self) -> None:
        """Break the connection: both ends' blocked calls end."""
        shut_down(self._socket)

    def statistics(self) -> EdgeStatistics:
        """What has been sent."""
        outgoing = self._outgoing
        return EdgeStatistics(
            kind="shared",
            num_messages=outgoing.num_messages,
            num_bytes=outgoing.num_bytes,
            num_waits=self._num_waits,
        )

    def _write(self, frame: Frame) -> None:
        if frame.payload_bytes:
            assert self._ring is not None, "a payload follows an announcement"
            slot = self._ring.slot(frame.sequence)
            copy_members(frame.tensors, slot.members(frame.schema, frame.layout, frame.num_samples))
        self._socket.sendall(frame.header)

    def _announce(self, frame: Frame) -> None:
        """Say what follows; if it needs larger slots, hand over a new ring with it.

        Nothing is lost with the old ring: the receiver takes out what lies there before it comes to read this.
        """
        text = _announcement(frame)
        self._socket.sendall(frame.header)
        if self._ring is not None and self._ring.slot_bytes >= frame.announced_bytes:
            self._socket.sendall(text)
            return
        slot_bytes = 1 << (frame.announced_bytes - 1).bit_length()  # pages that are never touched take no memory
        descriptor = self._segment(self._num_slots * slot_bytes)
        try:
            self._ring = Ring(descriptor, self._num_slots)
            socket.send_fds(self._socket, [text], [descriptor])
        finally:
            os.close(descriptor)

    def _segment(self, num_bytes: int) -> int:
        """The descriptor of new memory that can be shared."""
        try:
            descriptor = os.memfd_create("dni edge")
            try:
                os.ftruncate(descriptor, num_bytes)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            sender, receiver = self._outgoing.ends
            raise RunError(
                f"edge {sender}-{receiver} needs {num_bytes / 2**20:.3g} MiB of shared memory for its messages in "
                f"flight, and the system gives none: {error.strerror}. Allow it (ulimit -f for the size of files, "
                "ulimit -n for their number), or set transport to gloo."
            ) from error
        return descriptor

    def _wait_slot(self, sequence: int) -> None:
        """Wait until the receiver has taken what lay in the slot of frame `sequence`."""
        if sequence - self._num_taken < self._num_slots:
            return
        self._num_waits += 1
        while sequence - self._num_taken >= self._num_slots:
            self._wait_taken()

    def _wait_taken(self, timeout_s: float | None = None) -> bool:
        """Wait until the receiver says that it has taken more; returns whether it has in this time."""
        if not self._wait_readable(self._socket, timeout_s):
            return False
        self._num_taken += _COUNT.unpack(_wait_bytes(self._socket, _COUNT.size))[0]
        return True


class SharedIntake:
    """What the receiving end waits with.

    Args:
        incoming: the edge's frames.
        connection: to the sending end.
        num_slots: as the sending end was told.
        landing: takes tensors to the device of the stage they are for.
    """

    kind = "shared"

    def __init__(self, *, incoming: Incoming, connection: socket.socket, num_slots: int, landing: Landing) -> None:
        self.incoming = incoming
        self._socket = connection
        self._num_slots = num_slots
        self._landing = landing
        self._ring: Ring | None = None
        self._num_unsaid = 0

    def wait_message(self) -> Message:
        """The next message, copied out of the ring."""
        incoming = self.incoming
        while (header := incoming.read(_wait_bytes(self._socket, HEADER_BYTES))).kind == "schema":
            incoming.learn(self._wait_announcement(header.payload_bytes))
            self._say_taken()
        members = self._copies(header)
        self._say_taken(is_last=header.kind == "stop")
        return incoming.message(header, members)

    def abort(self) -> None:
        """Break the connection: both ends' blocked calls end."""
        shut_down(self._socket)

    def close(self) -> None:
        """Let go of the ring and the connection."""
        self._socket.close()
        self._ring = None

    def _copies(self, header: Header) -> list[Tensor | None]:
        if not header.carries_tensors:
            return []
        assert self._ring is not None, "a payload follows an announcement"
        slot = self._ring.slot(header.sequence)
        return self._landing.copies(slot.members(self.incoming.schema, header.schema, header.num_samples))

    def _wait_announcement(self, num_bytes: int) -> bytes:
        """What is announced; the ring that comes with it takes the old one's place."""
        room = socket.CMSG_SPACE(array.array("i").itemsize)
        data, ancillary, _, _ = self._socket.recvmsg(num_bytes, room, socket.MSG_WAITALL)
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                (descriptor,) = array.array("i", content)
                try:
                    self._ring = Ring(descriptor, self._num_slots)
                finally:
                    os.close(descriptor)
        return _whole(data, num_bytes)

    def _say_taken(self, *, is_last: bool = False) -> None:
        """Said for half a ring at a time: a message costs a system call less, and what was said and is not read yet
        never fills the socket."""
        self._num_unsaid += 1
        if is_last or self._num_unsaid >= max(self._num_slots // 2, 1):
            with contextlib.suppress(
                ConnectionError
            ):  # the sender is gone; what it sent still counts, then comes the end
                self._socket.sendall(_COUNT.pack(self._num_unsaid))
            self._num_unsaid = 0


def _announcement(frame: Frame) -> bytes:
    (text,) = frame.tensors
    assert text is not None
    return text.numpy().tobytes()


def _wait_bytes(connection: socket.socket, count: int) -> bytes:
    return _whole(connection.recv(count, socket.MSG_WAITALL), count)


def _whole(data: bytes, count: int) -> bytes:
    if len(data) < count:
        raise ConnectionResetError("the connection has ended")
    return data
