"""Where do frames lie in memory that two processes share?"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.transports.wire import HEADER_BYTES, Schema

__all__ = ["Ring", "Slot"]


class Ring:
    """Slots of equal size in a segment that both ends have mapped; unmapped with the last tensor in it.

    Args:
        descriptor: of the segment; may be closed afterwards.
        num_slots: that the segment is divided into.
    """

    def __init__(self, descriptor: int, num_slots: int) -> None:
        self.slot_bytes = os.fstat(descriptor).st_size // num_slots
        memory = torch.frombuffer(mmap.mmap(descriptor, num_slots * self.slot_bytes), dtype=torch.uint8)
        self._slots = [Slot(memory[i * self.slot_bytes :][: self.slot_bytes]) for i in range(num_slots)]

    def slot(self, sequence: int) -> Slot:
        """Where frame `sequence` lies."""
        return self._slots[sequence % len(self._slots)]


class Slot:
    """Memory of one frame at a time: a header, and room for a payload."""

    def __init__(self, memory: Tensor) -> None:
        self.header = memory[:HEADER_BYTES].numpy().data
        self._payload = memory[HEADER_BYTES:]
        self._layout = (-1, 0)
        self._members: Sequence[Tensor | None] = ()

    def members(self, schema: Schema, layout: int, num_samples: int) -> Sequence[Tensor | None]:
        """Where the tensors of the payload lie. Consecutive payloads are mostly alike, so the views are kept."""
        if self._layout != (layout, num_samples):
            self._layout = layout, num_samples
            self._members = schema.views(self._payload, num_samples)
        return self._members

    def payload(self, num_bytes: int) -> bytes:
        """A copy of the payload's first bytes."""
        return self._payload[:num_bytes].numpy().tobytes()
