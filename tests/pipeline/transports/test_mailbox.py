"""Does the thread that owns a mailbox find everything, sleep soundly, and never wait for a rank that waits for it?"""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch

from pipeline.messages import Activation, Message, Stop
from pipeline.transports.edge import AttachedReceiver
from pipeline.transports.frames import Incoming, Outgoing
from pipeline.transports.mailbox import ConnectedMailbox, affordable_spin_s
from pipeline.transports.shared_memory import SharedIntake, SharedSender
from pipeline.transports.staging import Landing

WAIT_S = 60.0
CPU = torch.device("cpu")


@pytest.fixture
def mailbox() -> Iterator[ConnectedMailbox]:
    with closing(ConnectedMailbox()) as made:
        yield made


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, far = socket.socketpair()
    with here, far:
        yield here, far


def test_deliveries_are_taken_in_the_order_in_which_they_were_put(mailbox: ConnectedMailbox) -> None:
    assert mailbox.empty()
    for step in range(3):
        mailbox.put((0, 1, Stop(step=step)))
    assert not mailbox.empty()
    assert [mailbox.get() for _ in range(3)] == [(0, 1, Stop(step=step)) for step in range(3)]
    assert mailbox.empty()


def test_nothing_in_time_is_said_as_a_queue_says_it(mailbox: ConnectedMailbox) -> None:
    with pytest.raises(queue.Empty):
        mailbox.get(timeout=0.001)
    with pytest.raises(queue.Empty):
        mailbox.get(timeout=0.0)


@pytest.mark.parametrize("spin_s", [0.0, 1e-4])
def test_owner_is_woken_by_every_thread_that_puts(spin_s: float) -> None:
    with closing(ConnectedMailbox(spin_s=spin_s)) as mailbox, closing(ConnectedMailbox()) as answers:

        def answer() -> None:
            for _ in range(500):
                answers.put(mailbox.get(timeout=WAIT_S))

        thread = threading.Thread(target=answer)
        thread.start()
        for step in range(500):  # the next is put only after the answer, so each finds the other asleep, or nearly
            mailbox.put((0, 1, Stop(step=step)))
            assert answers.get(timeout=WAIT_S) == (0, 1, Stop(step=step))
        thread.join()


def test_attached_connection_is_read_by_the_owner_and_detached_is_not(
    mailbox: ConnectedMailbox, pair: tuple[socket.socket, socket.socket]
) -> None:
    here, far = pair
    mailbox.attach(here, lambda: mailbox.put((0, 1, Stop(step=here.recv(1)[0]))))
    far.send(bytes([7, 8]))
    assert not mailbox.empty()
    assert [mailbox.get(timeout=WAIT_S) for _ in range(2)] == [(0, 1, Stop(step=7)), (0, 1, Stop(step=8))]
    mailbox.detach(here)
    far.send(bytes([9]))
    assert mailbox.empty()


def test_who_waits_for_one_connection_takes_in_what_comes_over_the_others(
    mailbox: ConnectedMailbox, pair: tuple[socket.socket, socket.socket]
) -> None:
    here, far = pair
    awaited, other = socket.socketpair()
    with awaited, other:

        def take() -> None:
            here.recv(1)
            mailbox.put((0, 1, Stop(step=0)))
            other.send(b"x")  # only now can the wait end

        mailbox.attach(here, take)
        assert not mailbox.wait_readable(awaited, 0.0)
        far.send(b"x")
        assert mailbox.wait_readable(awaited, WAIT_S)
        assert mailbox.get() == (0, 1, Stop(step=0))


def test_closed_mailbox_takes_what_comes_late() -> None:
    before = len(os.listdir("/proc/self/fd"))
    mailbox = ConnectedMailbox()
    mailbox.close()
    mailbox.put(RuntimeError("late"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_looking_is_affordable_where_every_thread_has_a_core() -> None:
    num_cores = len(os.sched_getaffinity(0))
    assert affordable_spin_s(num_cores) > 0 == affordable_spin_s(num_cores + 1)


class End:
    """One of two ranks: sends to the other, receives from it, and drives both ends with one thread."""

    def __init__(self, here: socket.socket, far: socket.socket, *, num_slots: int) -> None:
        self.mailbox = ConnectedMailbox()
        self.lost: list[BaseException] = []
        self._sender = SharedSender(
            outgoing=Outgoing(0, 1),
            connection=here,
            num_slots=num_slots,
            failed=self.lost.append,
            wait_readable=self.mailbox.wait_readable,
        )
        intake = SharedIntake(incoming=Incoming(0, 1), connection=far, num_slots=num_slots, landing=Landing(CPU))
        self._receiver = AttachedReceiver(
            intake=intake, connection=far, mailbox=self.mailbox, deliver=self._deliver, failed=self.lost.append
        )
        self.received: list[int] = []

    def send_all_then_receive_all(self, count: int) -> None:
        self._receiver.start()
        for step in range(count):
            self._sender.send(Activation(step=step, h=torch.ones(2, 3)))
        self._sender.send(Stop(step=count))
        self._sender.wait_stopped(WAIT_S)
        self._receiver.wait_stopped(WAIT_S)
        self.mailbox.close()

    def _deliver(self, message: Message) -> None:
        self.received.append(message.step)


def test_two_ranks_whose_rings_are_full_both_go_on() -> None:
    one, other = socket.socketpair(), socket.socketpair()
    ends = End(one[0], other[1], num_slots=2), End(other[0], one[1], num_slots=2)
    threads = [threading.Thread(target=end.send_all_then_receive_all, args=(40,), daemon=True) for end in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive(), "each waits for the other to take a message"
    for end in ends:
        assert end.received == list(range(41)) and not end.lost
