"""Both ends of an edge in one process, for the tests of every kind of edge."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist

from pipeline.messages import Drain, Message
from pipeline.transports.edge import Receiver, SendingEnd
from pipeline.transports.frames import Incoming, Outgoing
from pipeline.transports.gloo import GlooIntake, GlooSender
from pipeline.transports.shared_memory import SharedIntake, SharedSender
from pipeline.transports.staging import Landing
from pipeline.transports.unix_socket import Listener, connect

KINDS = ("shared", "gloo")
"""Of edges between ranks that work without a GPU."""
WAIT_S = 20.0
"""Far more than anything here takes: only a hang lasts this long."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The ends of the edge from stage 1 to stage 2, and what came out of them."""

    sender: SendingEnd
    receiver: Receiver
    received: queue.SimpleQueue[Message]
    sender_lost: queue.SimpleQueue[BaseException]
    receiver_lost: queue.SimpleQueue[BaseException]
    send_raw: Callable[[bytes], object]
    """Puts bytes on the edge past its sending end."""

    def start(self) -> None:
        """Start both ends."""
        self.sender.start()
        self.receiver.start()

    def wait_received(self, count: int) -> list[Message]:
        """The next messages."""
        return [self.received.get(timeout=WAIT_S) for _ in range(count)]

    def start_blocked(self) -> threading.Thread:
        """A thread that sends, and waits because all slots are on their way."""
        blocked = threading.Thread(target=self.sender.send, args=(Drain(step=99),), daemon=True)
        blocked.start()
        deadline_s = time.monotonic() + WAIT_S
        while self.sender.statistics().num_waits == 0 and time.monotonic() < deadline_s:
            time.sleep(0.001)
        assert blocked.is_alive()
        return blocked

    def stop(self) -> None:
        """Let go of both ends; they have been given a Stop, or aborted."""
        self.sender.wait_stopped(WAIT_S)
        self.receiver.wait_stopped(WAIT_S)


@dataclass
class _Outcomes:
    received: queue.SimpleQueue[Message] = field(default_factory=queue.SimpleQueue)
    sender_lost: queue.SimpleQueue[BaseException] = field(default_factory=queue.SimpleQueue)
    receiver_lost: queue.SimpleQueue[BaseException] = field(default_factory=queue.SimpleQueue)


def make_pair(kind: str, *, num_slots: int = 4, device: str = "cpu") -> Pair:
    """The ends of a new edge, not started."""
    outgoing, incoming, landing = Outgoing(1, 2), Incoming(1, 2), Landing(torch.device(device))
    outcomes = _Outcomes()
    failed = outcomes.sender_lost.put
    if kind == "shared":
        here, there = connected_sockets()
        sender: SendingEnd = SharedSender(outgoing=outgoing, connection=here, num_slots=num_slots, failed=failed)
        intake: SharedIntake | GlooIntake = SharedIntake(
            incoming=incoming, connection=there, num_slots=num_slots, landing=landing
        )
        send_raw: Callable[[bytes], object] = here.sendall
    else:
        near, far = connected_groups()
        sender = GlooSender(outgoing=outgoing, group=near, num_slots=num_slots, failed=failed)
        intake = GlooIntake(incoming=incoming, group=far, landing=landing)

        def send_raw(data: bytes) -> object:
            return near.send([torch.frombuffer(bytearray(data), dtype=torch.uint8)], 1, 0).wait()

    receiver = Receiver(intake=intake, deliver=outcomes.received.put, failed=outcomes.receiver_lost.put)
    return Pair(sender=sender, receiver=receiver, send_raw=send_raw, **vars(outcomes))


@contextmanager
def running_pair(kind: str, *, num_slots: int = 4, device: str = "cpu") -> Iterator[Pair]:
    """A pair that is started, and aborted at the end of the block."""
    pair = make_pair(kind, num_slots=num_slots, device=device)
    pair.start()
    try:
        yield pair
    finally:
        pair.sender.abort()
        pair.receiver.abort()
        pair.stop()


def connected_sockets() -> tuple[socket.socket, socket.socket]:
    """The sending and the receiving end's connection."""
    with Listener() as listener:
        return connect(listener.address), listener.wait_connected()


def connected_groups() -> list[dist.ProcessGroupGloo]:
    """Two ranks of a process group, in this process; to make one waits for the other."""
    store = dist.HashStore()
    made: dict[int, dist.ProcessGroupGloo] = {}

    def make(rank: int) -> None:
        made[rank] = dist.ProcessGroupGloo(store, rank, 2, timedelta(minutes=5))

    other = threading.Thread(target=make, args=(1,))
    other.start()
    make(0)
    other.join()
    return [made[0], made[1]]
