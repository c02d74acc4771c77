"""How does a message look as bytes?

A header of fixed size, checked on arrival, and behind it one payload that packs all tensors of the message, each
aligned. What the payload holds (count, dtypes, trailing shapes) is a schema, announced on the same edge before the
first message that has it, with the size of buffer that is needed from then on; the number of samples N is in the
header, so microbatches may differ in length.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import RunError
from pipeline.messages import Activation, Drain, Gradient, Input, Message, OutputError, Payload, Reshape, Stop

__all__ = [
    "FIRST_CAPACITY_BYTES",
    "HEADER_BYTES",
    "Header",
    "Schema",
    "carries_parts",
    "decode",
    "encode_header",
    "parts",
    "read_header",
]

_MAGIC = b"DNI3"
# magic, kind, flags, reach, sender, receiver, sequence, step, version, generation, N, payload bytes, schema, quality,
# loss (NaN: none); then CRC
_LAYOUT = struct.Struct("<4sBBHHHIqqIIQIff")
_CRC = struct.Struct("<I")
HEADER_BYTES = 64
"""Size of every header."""
FIRST_CAPACITY_BYTES = 4096
"""Of a receive buffer, until a schema announces more."""
_ALIGNMENT = 64
_KINDS = {"activation": 1, "gradient": 2, "drain": 3, "stop": 4, "schema": 5, "error": 6, "input": 7, "reshape": 8}
_KIND_NAMES = {number: name for name, number in _KINDS.items()}
_TRAINING, _EXACT, _SAVE, _FINISH, _VALUE, _DROPPED, _PROBE = 1, 2, 4, 8, 16, 32, 64


class Header(NamedTuple):
    """What a message says of itself before its tensors arrive; two are made per message, so they must be cheap."""

    kind: str
    sender: int
    receiver: int
    sequence: int
    """Messages before this one on its edge."""
    step: int = 0
    version: int = 0
    """Of an input: the messages before it that are no training steps."""
    generation: int = 0
    reach: int = 0
    num_samples: int = 0
    payload_bytes: int = 0
    schema: int = 0
    """Number of the schema that the payload follows, counted on this edge."""
    training: bool = True
    exact: bool = False
    save: bool = False
    finish: bool = False
    has_value: bool = False
    dropped: bool = False
    quality: float | None = None
    probe: bool = False
    loss: float | None = None

    @property
    def carries_tensors(self) -> bool:
        """Whether the payload holds tensors; there may be no bytes in them."""
        return self.kind == "activation" or self.has_value


@dataclass(frozen=True)
class Schema:
    """What a payload holds: one entry per tensor, (dtype, shape without N); None for a member without a gradient.

    Of an error at the output it holds two, either of which may be None: dL/dy, and the loss of each sample.
    """

    members: tuple[tuple[str, tuple[int, ...]] | None, ...]
    is_tuple: bool
    """Whether what is sent is a tuple of tensors."""
    has_target: bool
    """Whether the last entry is the labels."""

    def sizes(self, num_samples: int) -> list[tuple[torch.dtype, tuple[int, ...], int, int] | None]:
        """(dtype, shape, offset, bytes) of each member in a payload of N samples."""
        sizes: list[tuple[torch.dtype, tuple[int, ...], int, int] | None] = []
        offset = 0
        for member in self.members:
            if member is None:
                sizes.append(None)
                continue
            dtype: torch.dtype = getattr(torch, member[0])
            shape = (num_samples, *member[1])
            num_bytes = dtype.itemsize
            for length in shape:
                num_bytes *= length
            sizes.append((dtype, shape, offset, num_bytes))
            offset += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        return sizes

    def payload_bytes(self, num_samples: int) -> int:
        """Size of a payload of N samples."""
        ends = [size[2] + size[3] for size in self.sizes(num_samples) if size is not None]
        return max(ends, default=0)

    def views(self, buffer: Tensor, num_samples: int) -> list[Tensor | None]:
        """The members inside a payload buffer (uint8), without a copy."""
        return [
            None if size is None else buffer[size[2] : size[2] + size[3]].view(size[0]).view(size[1])
            for size in self.sizes(num_samples)
        ]

    def to_bytes(self, capacity: int) -> bytes:
        """As it is announced, with the bytes a receive buffer has to have from then on."""
        return json.dumps([self.members, self.is_tuple, self.has_target, capacity]).encode()

    @staticmethod
    def from_bytes(data: bytes) -> tuple[Schema, int]:
        """The schema and the capacity that were announced."""
        members, is_tuple, has_target, capacity = json.loads(data)
        schema = Schema(
            members=tuple(None if m is None else (m[0], tuple(m[1])) for m in members),
            is_tuple=is_tuple,
            has_target=has_target,
        )
        return schema, capacity


def carries_parts(message: OutputError) -> bool:
    """Whether the last stage has something to say, and not only that there is nothing."""
    return message.value is not None or message.loss_per_sample is not None


def parts(message: Message) -> tuple[list[Tensor | None], Schema, int]:
    """The tensors of a message, what they are, and N; no tensors for a message without payload."""
    target: Tensor | None = None
    match message:
        case Activation(h=h):
            value: Payload | None = h
            target = message.target
        case Input(x=value):
            target = message.target
        case Gradient(value=value):
            pass
        case OutputError() if carries_parts(message):
            value = (message.value, message.loss_per_sample)
        case Reshape(change=change):
            value = torch.frombuffer(bytearray(change.encode()), dtype=torch.uint8)
        case _:
            value = None
    if value is None:
        return [], Schema(members=(), is_tuple=False, has_target=False), 0
    members: list[Tensor | None] = list(value) if isinstance(value, tuple) else [value]
    if target is not None:
        members.append(target)
    described = tuple(None if m is None else (str(m.dtype).removeprefix("torch."), tuple(m.shape[1:])) for m in members)
    num_samples = next(m.shape[0] for m in members if m is not None)
    schema = Schema(members=described, is_tuple=isinstance(value, tuple), has_target=target is not None)
    return members, schema, num_samples


def encode_header(header: Header) -> bytes:
    """64 bytes, the last ones a checksum of the others."""
    flags = (
        _TRAINING * header.training
        | _EXACT * header.exact
        | _SAVE * header.save
        | _FINISH * header.finish
        | _VALUE * header.has_value
        | _DROPPED * header.dropped
        | _PROBE * header.probe
    )
    body = _LAYOUT.pack(
        _MAGIC,
        _KINDS[header.kind],
        flags,
        header.reach,
        header.sender,
        header.receiver,
        header.sequence,
        header.step,
        header.version,
        header.generation,
        header.num_samples,
        header.payload_bytes,
        header.schema,
        math.nan if header.quality is None else header.quality,
        math.nan if header.loss is None else header.loss,
    )
    return (body + _CRC.pack(zlib.crc32(body))).ljust(HEADER_BYTES, b"\0")


def read_header(data: bytes, *, sender: int, receiver: int, sequence: int, capacity: int) -> Header:
    """The header in `data`, which must be the next one of its edge.

    Raises:
        RunError: it is damaged, of another version, of another edge or place in the order, or announces more than the
            buffer's capacity.
    """
    body = data[: _LAYOUT.size]
    (crc,) = _CRC.unpack_from(data, _LAYOUT.size)
    if body[:4] != _MAGIC or crc != zlib.crc32(body):
        raise RunError(
            f"boundary {sender}-{receiver}: what arrived is not a header of this version "
            f"(magic {body[:4]!r}, expected {_MAGIC!r}). Run the same version on every rank."
        )
    _, kind, flags, reach, s, r, at, step, version, generation, n, num_bytes, schema, quality, loss = _LAYOUT.unpack(
        body
    )
    if (s, r, at) != (sender, receiver, sequence):
        raise RunError(
            f"boundary {sender}-{receiver} expects message {sequence}, got message {at} of boundary {s}-{r}."
        )
    if HEADER_BYTES + num_bytes > capacity:
        raise RunError(f"boundary {s}-{r}: message {at} has {num_bytes} bytes behind its header, capacity {capacity}.")
    return Header(
        kind=_KIND_NAMES[kind],
        sender=s,
        receiver=r,
        sequence=at,
        step=step,
        version=version,
        generation=generation,
        reach=reach,
        num_samples=n,
        payload_bytes=num_bytes,
        schema=schema,
        training=bool(flags & _TRAINING),
        exact=bool(flags & _EXACT),
        save=bool(flags & _SAVE),
        finish=bool(flags & _FINISH),
        has_value=bool(flags & _VALUE),
        dropped=bool(flags & _DROPPED),
        quality=None if math.isnan(quality) else quality,
        loss=None if math.isnan(loss) else loss,
        probe=bool(flags & _PROBE),
    )


def decode(header: Header, schema: Schema | None, members: list[Tensor | None]) -> Message:
    """The message that a header and the members of its payload make; takes over the list."""
    match header.kind:
        case "activation":
            assert schema is not None
            target = members.pop() if schema.has_target else None
            return Activation(
                step=header.step,
                h=_value(members, schema),
                target=target,
                reach=header.reach,
                version=header.version,
                generation=header.generation,
                training=header.training,
                probe=header.probe,
            )
        case "gradient":
            value = _value(members, schema) if header.has_value and schema is not None else None
            return Gradient(
                step=header.step,
                value=value,
                exact=header.exact,
                version=header.version,
                generation=header.generation,
                dropped=header.dropped,
                quality=header.quality,
                loss=header.loss,
            )
        case "error":
            value, loss = members if header.has_value else (None, None)
            return OutputError(step=header.step, value=value, loss_per_sample=loss)
        case "input":
            x = target = None
            if header.has_value and schema is not None:
                target = members.pop() if schema.has_target else None
                x = _value(members, schema)
            return Input(step=header.step, x=x, target=target, reach=header.reach, after=header.version)
        case "reshape":
            (text,) = members
            assert text is not None
            change = bytes(text.tolist()).decode()
            return Reshape(step=header.step, change=change, generation=header.generation)
        case "drain":
            return Drain(step=header.step, save=header.save, finish=header.finish)
        case _:
            return Stop(step=header.step)


def _value(members: list[Tensor | None], schema: Schema) -> Payload:
    if schema.is_tuple:
        return tuple(members)
    assert members[0] is not None
    return members[0]
