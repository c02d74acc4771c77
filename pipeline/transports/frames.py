"""What goes over an edge, one after the other, whatever carries it?

Frames: a header, and behind it the payload of a message, or the announcement of a schema. Both ends count frames; the
sending end announces a schema when it changes, or when a payload needs more room than was announced.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.errors import RunError
from pipeline.messages import Activation, Drain, Gradient, Input, Message, OutputError, Reshape, Stop
from pipeline.transports.wire import (
    FIRST_CAPACITY_BYTES,
    HEADER_BYTES,
    Header,
    Schema,
    carries_parts,
    decode,
    encode_header,
    parts,
    read_header,
)

__all__ = ["Frame", "Incoming", "Outgoing"]

_ANNOUNCEMENT = Schema(members=(("uint8", ()),), is_tuple=False, has_target=False)


class Frame(NamedTuple):
    """A header, and the tensors whose bytes follow it."""

    header: bytes
    sequence: int
    """Frames before this one on its edge."""
    payload_bytes: int
    tensors: list[Tensor | None]
    schema: Schema
    layout: int
    """Number of the schema on this edge; 0: an announcement."""
    num_samples: int
    announced_bytes: int
    """Of an announcement, the room that a header with its payload needs from then on; else 0."""


class Outgoing:
    """The frames of one directed edge, at its sending end.

    Args:
        sender: index of the stage that sends.
        receiver: index of the stage that receives.
    """

    def __init__(self, sender: int, receiver: int) -> None:
        self.ends = (sender, receiver)
        self._schema: Schema | None = None
        self._schema_number = 0
        self._capacity = FIRST_CAPACITY_BYTES
        self._sized: tuple[Schema, int, int] | None = None
        self.num_frames = 0
        self.num_messages = 0
        self.num_bytes = 0

    def frames(self, message: Message) -> Iterator[Frame]:
        """The message's frame, and before it an announcement if the other end could not read it."""
        tensors, schema, num_samples = parts(message)
        payload_bytes = self._payload_bytes(schema, num_samples)
        if tensors and (schema != self._schema or HEADER_BYTES + payload_bytes > self._capacity):
            yield self._announcement(schema, payload_bytes)
        header = self._header(message, num_samples=num_samples, payload_bytes=payload_bytes)
        self.num_messages += 1
        yield self._frame(header, tensors, schema)

    def _payload_bytes(self, schema: Schema, num_samples: int) -> int:
        """Asked for every message, and nearly always about the same."""
        if self._sized is None or self._sized[:2] != (schema, num_samples):
            self._sized = schema, num_samples, schema.payload_bytes(num_samples)
        return self._sized[2]

    def _announcement(self, schema: Schema, payload_bytes: int) -> Frame:
        """Say what is in the payloads from here on, and how large a buffer they need."""
        self._schema, self._schema_number = schema, self._schema_number + 1
        self._capacity = max(self._capacity, HEADER_BYTES + payload_bytes)
        text = torch.frombuffer(bytearray(schema.to_bytes(self._capacity)), dtype=torch.uint8)
        sender, receiver = self.ends
        if HEADER_BYTES + len(text) > FIRST_CAPACITY_BYTES:
            raise RunError(
                f"boundary {sender}-{receiver}: to announce {len(schema.members)} tensors takes {len(text)} bytes, "
                f"there are {FIRST_CAPACITY_BYTES - HEADER_BYTES}. Let the stage return fewer, or put some into one."
            )
        header = Header(
            kind="schema",
            sender=sender,
            receiver=receiver,
            sequence=self.num_frames,
            num_samples=len(text),
            payload_bytes=len(text),
            schema=self._schema_number,
        )
        return self._frame(header, [text], _ANNOUNCEMENT, announced_bytes=self._capacity)

    def _frame(
        self, header: Header, tensors: list[Tensor | None], schema: Schema, *, announced_bytes: int = 0
    ) -> Frame:
        self.num_frames += 1
        self.num_bytes += HEADER_BYTES + header.payload_bytes
        return Frame(
            header=encode_header(header),
            sequence=header.sequence,
            payload_bytes=header.payload_bytes,
            tensors=tensors,
            schema=schema,
            layout=0 if announced_bytes else header.schema,
            num_samples=header.num_samples,
            announced_bytes=announced_bytes,
        )

    def _header(self, message: Message, *, num_samples: int, payload_bytes: int) -> Header:
        sender, receiver = self.ends
        common: dict[str, Any] = {
            "sender": sender,
            "receiver": receiver,
            "sequence": self.num_frames,
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
                    probe=message.probe,
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
                    quality=message.quality,
                    loss=message.loss,
                    **common,
                )
            case OutputError():
                return Header(kind="error", has_value=carries_parts(message), **common)
            case Input():
                return Header(
                    kind="input",
                    version=message.after,
                    reach=message.reach,
                    has_value=message.x is not None,
                    **common,
                )
            case Reshape():
                return Header(kind="reshape", generation=message.generation, has_value=True, **common)
            case Drain():
                return Header(kind="drain", save=message.save, finish=message.finish, **common)
            case Stop():
                return Header(kind="stop", **common)


class Incoming:
    """The frames of one directed edge, at its receiving end.

    Args:
        sender: index of the stage that sends.
        receiver: index of the stage that receives.
    """

    def __init__(self, sender: int, receiver: int) -> None:
        self.ends = (sender, receiver)
        self.capacity = FIRST_CAPACITY_BYTES
        """Room that a header with its payload needs at most, as announced so far."""
        self.schema = Schema(members=(), is_tuple=False, has_target=False)
        """Of the payloads, as announced last."""
        self.num_frames = 0
        self.num_messages = 0
        self.num_bytes = 0

    def read(self, data: bytes) -> Header:
        """The header in `data`, checked: it must be the next one."""
        sender, receiver = self.ends
        header = read_header(data, sender=sender, receiver=receiver, sequence=self.num_frames, capacity=self.capacity)
        self.num_frames += 1
        self.num_bytes += HEADER_BYTES + header.payload_bytes
        return header

    def learn(self, announcement: bytes) -> None:
        """Take note of what the payloads hold from here on."""
        self.schema, self.capacity = Schema.from_bytes(announcement)

    def message(self, header: Header, members: list[Tensor | None]) -> Message:
        """The message of a frame."""
        self.num_messages += 1
        return decode(header, self.schema, members)
