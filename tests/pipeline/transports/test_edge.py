"""Does every kind of edge carry messages whole and in order, and end well whatever happens to it?

One suite for all kinds that work on any machine: shared memory, gloo, and in process as far as it has two ends.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dni import NEW, NewUnits, Origin, UnitChange
from pipeline.errors import RunError
from pipeline.messages import Activation, Drain, Gradient, Message, Reshape, Stop
from pipeline.transports.edge import EdgeStatistics
from pipeline.transports.in_process import InProcessSender
from pipeline.transports.wire import Header, encode_header
from tests.pipeline.pairs import KINDS, WAIT_S, make_pair, running_pair
from tests.pipeline.transports.test_wire import _assert_same, _messages


def assert_all_same(found: Sequence[Message], expected: Sequence[Message]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        _assert_same(one, other)


def grown_to(num_units: int) -> str:
    """What a stage is told when three units become so many: copies of them and one new one."""
    sources = (*(index % 3 for index in range(num_units - 1)), NEW)
    copies = [sources.count(source) for source in sources]
    scale = tuple(1 / count if source != NEW else 1.0 for source, count in zip(sources, copies, strict=True))
    origin = Origin(num_old=3, sources=sources, scale=scale)
    change = UnitChange(layer="0.0", origin=origin, new=NewUnits(alpha=0.5, noise=0.1))
    return json.dumps({"event": "größer", "axis": 1, "units": change.to_json()})


def a_run() -> list[Message]:
    """What a boundary may see: N and the units change, the schema does there and back, members are missing."""
    ones, labels = torch.ones, torch.arange(9)
    return [
        Activation(step=0, h=torch.randn(4, 3), target=labels[:4], version=5, reach=2),
        Activation(step=1, h=torch.randn(9, 3), target=labels),
        Drain(step=2, save=True),
        Activation(step=2, h=torch.randn(3, 3), target=labels[:3], training=False),
        Activation(step=3, h=torch.randn(4, 5, 2).double(), target=None),
        Activation(step=4, h=(torch.randn(2, 3), labels[:2], ones(2, 1, dtype=torch.bool)), target=labels[:2]),
        Gradient(step=0, value=None, version=7),
        Gradient(step=1, value=(torch.randn(4, 3), None, torch.randn(4).bfloat16()), exact=True),
        Gradient(step=2, value=(None, torch.randn(4, 3))),
        Gradient(step=3, value=torch.randn(4, 3).half(), generation=9),
        Gradient(step=4, value=torch.randn(4, 3), quality=0.5, loss=0.25),
        Gradient(step=5, value=None, loss=0.125),
        Activation(step=5, h=torch.randn(4, 3), target=labels[:4]),
        Reshape(step=5, change=grown_to(5000), generation=1),
        Activation(step=6, h=torch.randn(4, 5000), target=labels[:4], generation=1),
        Reshape(step=6, change=grown_to(4), generation=2),
        Reshape(step=6, change=grown_to(7), generation=3),
        Activation(step=7, h=torch.randn(9, 7), target=labels, generation=3),
        Activation(step=5, h=torch.empty(0, 3), target=labels[:0]),
        Activation(step=6, h=torch.randn(64, 70_000 // 64)),
        Activation(step=7, h=torch.randn(64, 3_000_000 // 64)),
        Activation(step=8, h=torch.randn(4, 3).t().contiguous().t(), target=labels[:4]),
        Drain(step=9, finish=True),
        Stop(step=9),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_messages_of_every_kind_and_size_arrive_in_order_and_equal(kind: str) -> None:
    messages = a_run()
    pair = make_pair(kind)
    pair.start()
    for message in messages:
        pair.sender.send(message)
    assert_all_same(pair.wait_received(len(messages)), messages)
    pair.stop()
    assert pair.sender_lost.empty() and pair.receiver_lost.empty()
    sent, received = pair.sender.statistics(), pair.receiver.statistics()
    assert sent.kind == received.kind == kind
    assert sent.num_messages == received.num_messages == len(messages)
    assert sent.num_bytes == received.num_bytes > 4 * 3_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_any_sequence_of_messages_arrives_equal(kind: str) -> None:
    open_ended = _messages().filter(lambda message: not isinstance(message, Stop))  # a Stop ends the edge

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(st.lists(open_ended, max_size=8))
    def arrive(messages: list[Message]) -> None:
        for message in messages:
            pair.sender.send(message)
        assert_all_same(pair.wait_received(len(messages)), messages)

    with running_pair(kind, num_slots=3) as pair:
        arrive()


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_sent_may_be_changed_at_once_and_what_came_is_the_receivers_own(kind: str) -> None:
    h = torch.zeros(4, 8)
    with running_pair(kind, num_slots=2) as pair:
        for step in range(12):
            h.fill_(step)
            pair.sender.send(Activation(step=step, h=h, target=torch.full((4,), step)))
        h.fill_(-1)
        found = pair.wait_received(12)
    for step, message in enumerate(found):
        assert isinstance(message, Activation) and isinstance(message.h, torch.Tensor) and message.target is not None
        assert message.h.eq(step).all() and message.target.eq(step).all()


@pytest.mark.parametrize("kind", KINDS)
def test_sender_waits_once_all_slots_are_on_their_way_and_goes_on_when_one_is_taken(kind: str) -> None:
    pair = make_pair(kind, num_slots=3)
    pair.sender.start()
    for step in range(3):
        pair.sender.send(Drain(step=step))
    blocked = pair.start_blocked()
    assert pair.sender.statistics().num_waits == 1
    pair.receiver.start()
    blocked.join(WAIT_S)
    assert not blocked.is_alive()
    pair.sender.send(Stop(step=100))
    assert [message.step for message in pair.wait_received(5)] == [0, 1, 2, 99, 100]
    pair.stop()


@pytest.mark.parametrize("end", ["sender", "receiver"])
@pytest.mark.parametrize("kind", KINDS)
def test_abort_at_either_end_wakes_a_receiver_that_waits(kind: str, end: str) -> None:
    before = threading.active_count()
    pair = make_pair(kind)
    pair.start()
    pair.sender.send(Drain(step=0))
    pair.wait_received(1)
    (pair.sender if end == "sender" else pair.receiver).abort()
    assert isinstance(pair.receiver_lost.get(timeout=WAIT_S), Exception)
    pair.stop()
    assert threading.active_count() <= before


@pytest.mark.parametrize("end", ["sender", "receiver"])
@pytest.mark.parametrize("kind", KINDS)
def test_abort_at_either_end_wakes_a_sender_that_waits(kind: str, end: str) -> None:
    pair = make_pair(kind, num_slots=2)
    pair.sender.start()
    for step in range(2):
        pair.sender.send(Drain(step=step))
    blocked = pair.start_blocked()
    (pair.sender if end == "sender" else pair.receiver).abort()
    blocked.join(WAIT_S)
    assert not blocked.is_alive()
    assert isinstance(pair.sender_lost.get(timeout=WAIT_S), Exception)
    pair.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_sending_on_a_lost_edge_neither_blocks_nor_raises_and_is_reported_once(kind: str) -> None:
    """In 0.1, a stage that sent several messages after its edge was lost waited for ever for a free slot."""
    with running_pair(kind, num_slots=2) as pair:
        pair.receiver.abort()
        sending = threading.Thread(target=lambda: [pair.sender.send(Drain(step=step)) for step in range(20)])
        sending.daemon = True
        sending.start()
        sending.join(WAIT_S)
        assert not sending.is_alive()
        assert isinstance(pair.sender_lost.get(timeout=WAIT_S), Exception)
        assert pair.sender_lost.empty()


@pytest.mark.parametrize(
    ("header", "refusal"),
    [
        (b"\x00" * 64, "boundary 1-2: what arrived is not a header of this version"),
        (encode_header(Header(kind="drain", sender=1, receiver=2, sequence=1)), "expects message 0, got message 1"),
        (encode_header(Header(kind="drain", sender=4, receiver=2, sequence=0)), "message 0 of boundary 4-2"),
        (
            encode_header(Header(kind="gradient", sender=1, receiver=2, sequence=0, payload_bytes=1 << 40)),
            "message 0 has 1099511627776 bytes behind its header, capacity 4096",
        ),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_header_that_is_damaged_or_not_the_next_one_is_refused(kind: str, header: bytes, refusal: str) -> None:
    with running_pair(kind) as pair:
        pair.send_raw(header)
        error = pair.receiver_lost.get(timeout=WAIT_S)
    assert isinstance(error, RunError) and refusal in str(error)
    assert pair.received.empty()


@pytest.mark.parametrize("kind", KINDS)
def test_boundary_of_too_many_tensors_to_announce_is_refused(kind: str) -> None:
    with running_pair(kind) as pair, pytest.raises(RunError, match="boundary 1-2: to announce 300 tensors takes"):
        pair.sender.send(Activation(step=0, h=tuple(torch.zeros(2, 3) for _ in range(300))))


def test_stages_in_one_process_hand_messages_over_as_they_are() -> None:
    received: list[Message] = []
    end = InProcessSender(received.append)
    messages = a_run()
    end.start()
    for message in messages:
        end.send(message)
    end.wait_stopped()
    end.abort()
    assert all(found is sent for found, sent in zip(received, messages, strict=True))
    assert end.statistics() == EdgeStatistics(kind="in process", num_messages=len(messages), num_bytes=0)
