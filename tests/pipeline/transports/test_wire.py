"""Does a message survive as bytes, and is what is not one refused?"""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import RunError
from pipeline.messages import Activation, Drain, Gradient, Message, OutputError, Payload, Reshape, Stop
from pipeline.transports.wire import (
    HEADER_BYTES,
    Header,
    Schema,
    carries_parts,
    decode,
    encode_header,
    parts,
    read_header,
)

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
OTHERS = (torch.int64, torch.int32, torch.uint8, torch.int8, torch.bool)


def _header_of(message: Message, *, num_samples: int, payload_bytes: int) -> Header:
    kind = "error" if isinstance(message, OutputError) else type(message).__name__.lower()
    fields: dict[str, Any] = {}
    for name in ("version", "generation", "reach", "training", "exact", "save", "finish", "quality", "loss"):
        if hasattr(message, name):
            fields[name] = getattr(message, name)
    return Header(
        kind=kind,
        sender=1,
        receiver=2,
        sequence=5,
        step=message.step,
        num_samples=num_samples,
        payload_bytes=payload_bytes,
        schema=1,
        has_value=isinstance(message, Reshape)
        or (isinstance(message, Gradient) and message.value is not None)
        or (isinstance(message, OutputError) and carries_parts(message)),
        **fields,
    )


def _sent(message: Message) -> Message:
    """The message after a way over an edge: header and schema as bytes, the payload as one buffer."""
    tensors, schema, num_samples = parts(message)
    buffer = torch.full((schema.payload_bytes(num_samples),), 0xAB, dtype=torch.uint8)
    for view, tensor in zip(schema.views(buffer, num_samples), tensors, strict=True):
        if view is not None and tensor is not None:
            view.copy_(tensor)
    header = _header_of(message, num_samples=num_samples, payload_bytes=buffer.numel())
    data = encode_header(header)
    assert len(data) == HEADER_BYTES
    received = read_header(data, sender=1, receiver=2, sequence=5, capacity=HEADER_BYTES + buffer.numel())
    assert received == header
    if not buffer.numel():
        return decode(received, None, [])
    announced, capacity = Schema.from_bytes(schema.to_bytes(12345))
    assert announced == schema and capacity == 12345
    members = announced.views(torch.frombuffer(_bytes(buffer), dtype=torch.uint8), received.num_samples)
    return decode(received, announced, members)


def _bytes(buffer: Tensor) -> bytearray:
    return bytearray(buffer.numpy().tobytes())


def _assert_same_payload(found: Payload | None, expected: Payload | None) -> None:
    assert type(found) is type(expected)
    if found is None or expected is None:
        return
    found_members = found if isinstance(found, tuple) else (found,)
    members = expected if isinstance(expected, tuple) else (expected,)
    assert len(found_members) == len(members)
    for a, b in zip(found_members, members, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert a.dtype == b.dtype and a.shape == b.shape
            assert torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)), "bit for bit"


def _assert_same(found: Message, expected: Message) -> None:
    assert type(found) is type(expected)
    match expected:
        case Activation():
            assert isinstance(found, Activation)
            _assert_same_payload(found.h, expected.h)
            _assert_same_payload(found.target, expected.target)
            assert replace(found, h=torch.empty(0), target=None).step == expected.step
            for name in ("reach", "version", "generation", "training"):
                assert getattr(found, name) == getattr(expected, name)
        case Gradient():
            assert isinstance(found, Gradient)
            _assert_same_payload(found.value, expected.value)
            for name in ("step", "exact", "version", "generation", "quality", "loss"):
                assert getattr(found, name) == getattr(expected, name)
        case OutputError():
            assert isinstance(found, OutputError) and found.step == expected.step
            _assert_same_payload(found.value, expected.value)
            _assert_same_payload(found.loss_per_sample, expected.loss_per_sample)
        case _:
            assert found == expected


@st.composite
def _tensor(draw: st.DrawFn, num_samples: int, dtypes: tuple[torch.dtype, ...]) -> Tensor:
    shape = (num_samples, *draw(st.lists(st.integers(1, 5), max_size=3)))
    values = torch.randint(-3, 200, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    tensor = values.to(draw(st.sampled_from(dtypes)))
    if tensor.is_floating_point() and draw(st.booleans()):
        tensor.view(-1)[0] = draw(st.sampled_from([float("nan"), float("inf"), -0.0]))
    return tensor.transpose(1, 2) if tensor.dim() == 4 and draw(st.booleans()) else tensor


@st.composite
def _payload(draw: st.DrawFn, num_samples: int, *, with_none: bool) -> Payload:
    if draw(st.booleans()):
        return draw(_tensor(num_samples, FLOATS))
    first = draw(_tensor(num_samples, FLOATS))
    member = _tensor(num_samples, FLOATS + OTHERS)
    rest = draw(st.lists(member | st.none() if with_none else member, max_size=3))
    return tuple(draw(st.permutations([first, *rest])))


@st.composite
def _messages(draw: st.DrawFn) -> Message:
    num_samples, step = draw(st.integers(1, 9)), draw(st.integers(0, 2**40))
    common = {"step": step, "version": draw(st.integers(0, 2**32)), "generation": draw(st.integers(0, 2**32 - 1))}
    match draw(st.sampled_from(["activation", "gradient", "credit", "error", "reshape", "drain", "stop"])):
        case "activation":
            return Activation(
                h=draw(_payload(num_samples, with_none=False)),
                target=draw(st.none() | _tensor(num_samples, OTHERS + FLOATS)),
                reach=draw(st.integers(0, 999)),
                training=draw(st.booleans()),
                **common,
            )
        case "gradient":
            value = draw(_payload(num_samples, with_none=True))
            quality = draw(st.none() | st.floats(-1, 1, width=32))
            loss = draw(st.none() | st.floats(0, 2**100, width=32))
            return Gradient(value=value, exact=draw(st.booleans()), quality=quality, loss=loss, **common)
        case "credit":
            return Gradient(value=None, **common)
        case "error":
            member = st.none() | _tensor(num_samples, FLOATS)
            return OutputError(step=step, value=draw(member), loss_per_sample=draw(member))
        case "reshape":
            return Reshape(step=step, change=draw(st.text(min_size=1)), generation=common["generation"])
        case "drain":
            return Drain(step=step, save=draw(st.booleans()), finish=draw(st.booleans()))
    return Stop(step=step)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(_messages())
def test_message_survives_as_header_and_payload(message: Message) -> None:
    _assert_same(_sent(message), message)


def test_tuple_of_one_tensor_stays_a_tuple() -> None:
    found = _sent(Activation(step=0, h=(torch.ones(2, 3),)))
    assert isinstance(found, Activation) and isinstance(found.h, tuple) and len(found.h) == 1


def test_labels_are_not_mistaken_for_a_member_of_h() -> None:
    h, target = (torch.ones(2, 3), torch.arange(2)), torch.tensor([7, 8])
    found = _sent(Activation(step=0, h=h, target=target))
    assert isinstance(found, Activation) and isinstance(found.h, tuple)
    assert len(found.h) == 2 and found.target is not None and found.target.tolist() == [7, 8]


def test_schema_does_not_name_the_number_of_samples() -> None:
    whole, short = (parts(Activation(step=0, h=torch.ones(n, 3), target=torch.ones(n)))[1:] for n in (96, 60))
    assert whole[0] == short[0] and (whole[1], short[1]) == (96, 60)
    assert whole[0].payload_bytes(96) > whole[0].payload_bytes(60)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), _payload(n, with_none=True))))
def test_members_are_aligned_to_64_bytes_and_do_not_overlap(drawn: tuple[int, Payload]) -> None:
    num_samples, value = drawn
    _, schema, found = parts(Gradient(step=0, value=value))
    assert found == num_samples
    end = 0
    for size in schema.sizes(num_samples):
        if size is not None:
            _, _, offset, num_bytes = size
            assert offset % 64 == 0 and end <= offset < end + 64
            end = offset + num_bytes
    assert schema.payload_bytes(num_samples) == end
    buffer = torch.empty(end, dtype=torch.uint8)
    views = [view for view in schema.views(buffer, num_samples) if view is not None]
    assert all(view.untyped_storage().data_ptr() == buffer.data_ptr() for view in views), "no copies"


def _header(**changes: Any) -> Header:
    given: dict[str, Any] = {"kind": "gradient", "sender": 3, "receiver": 2, "sequence": 17, "step": 4}
    return Header(**{**given, **changes})


@pytest.mark.parametrize("position", range(60))
def test_damaged_header_is_refused(position: int) -> None:
    data = bytearray(encode_header(_header(payload_bytes=640, num_samples=10, schema=2)))
    if position >= struct.calcsize("<4sBBHHHQqqIIQI") + 4:
        assert not any(data[position:]), "what follows the checksum is padding"
        return
    data[position] ^= 0x10
    with pytest.raises(RunError, match=r"boundary 3-2: what arrived is not a header of this version"):
        read_header(bytes(data), sender=3, receiver=2, sequence=17, capacity=4096)


def test_header_of_another_version_is_refused() -> None:
    data = encode_header(_header())
    size = struct.calcsize("<4sBBHHHQqqIIQI")
    body = b"DNI9" + data[4:size]
    other = (body + struct.pack("<I", zlib.crc32(body))).ljust(HEADER_BYTES, b"\0")
    with pytest.raises(RunError, match=r"magic b'DNI9', expected b'DNI3'.*Run the same version on every rank"):
        read_header(other, sender=3, receiver=2, sequence=17, capacity=4096)


@pytest.mark.parametrize(("sender", "receiver", "sequence"), [(1, 2, 17), (3, 4, 17), (3, 2, 16)])
def test_header_of_another_edge_or_out_of_order_is_refused(sender: int, receiver: int, sequence: int) -> None:
    message = f"boundary {sender}-{receiver} expects message {sequence}, got message 17 of boundary 3-2"
    with pytest.raises(RunError, match=message):
        read_header(encode_header(_header()), sender=sender, receiver=receiver, sequence=sequence, capacity=4096)


def test_message_that_does_not_fit_the_buffer_is_refused() -> None:
    data = encode_header(_header(payload_bytes=100))
    fits = HEADER_BYTES + 100
    assert read_header(data, sender=3, receiver=2, sequence=17, capacity=fits).payload_bytes == 100
    with pytest.raises(RunError, match="boundary 3-2: message 17 has 100 bytes behind its header, capacity 163"):
        read_header(data, sender=3, receiver=2, sequence=17, capacity=fits - 1)


def test_schema_header_survives() -> None:
    header = _header(kind="schema", payload_bytes=123, schema=9)
    assert read_header(encode_header(header), sender=3, receiver=2, sequence=17, capacity=4096) == header


def test_messages_without_tensors_have_no_payload() -> None:
    for message in (Gradient(step=1, value=None), Drain(step=1), Stop(step=1)):
        tensors, schema, num_samples = parts(message)
        assert tensors == [] and schema.payload_bytes(num_samples) == 0
