"""How do tensors get into memory that a transport can read, and out of it to the stage they are for?

On the CPU by one copy in, and one out where the memory is used again. To and from a GPU the copies are queued and then
waited for, all members of a message at once, with pinned memory in between where the transport's own memory is not the
place to copy to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Landing", "copy_members"]


def copy_members(tensors: Sequence[Tensor | None], views: Sequence[Tensor | None]) -> None:
    """Copy the members of a message to where they leave from; when this returns they are there.

    Copies from a GPU are queued behind what the calling thread's stream still has to do to them.
    """
    device = None
    for tensor, view in zip(tensors, views, strict=True):
        if tensor is not None and view is not None:
            view.copy_(tensor, non_blocking=True)
            device = tensor.device if tensor.is_cuda else device
    if device is not None:
        torch.cuda.current_stream(device).synchronize()


class Landing:
    """Takes what has arrived to the device of the stage it is for; used by one thread.

    Args:
        device: of the stage.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned = torch.empty(0, dtype=torch.uint8)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def room(self, num_bytes: int) -> Tensor:
        """Memory to receive into: new on the CPU; pinned on a GPU, and used again after `take`."""
        if self._stream is None:
            return torch.empty(num_bytes, dtype=torch.uint8)
        if self._pinned.numel() < num_bytes:
            with torch.cuda.device(self._device):  # else a context would be made on the first GPU
                self._pinned = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        return self._pinned[:num_bytes]

    def take(self, members: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The members, which lie in the newest `room`, as the stage's own."""
        return list(members) if self._stream is None else self._landed(members, self._stream)

    def copies(self, members: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The members, which lie in memory that is used again after this, as the stage's own."""
        if self._stream is None:
            return [None if member is None else member.clone() for member in members]
        return self._landed(members, self._stream)

    def _landed(self, members: Sequence[Tensor | None], stream: torch.cuda.Stream) -> list[Tensor | None]:
        """Only this thread waits. Then the memory they came from is free, and the stage finds them complete.

        They were allocated for this thread's stream and are the stage's from here on, so their memory must not be used
        again before the stage's stream is done with them.
        """
        with torch.cuda.stream(stream):
            landed = [None if member is None else member.to(self._device, non_blocking=True) for member in members]
        stream.synchronize()
        for member in landed:
            if member is not None:
                member.record_stream(torch.cuda.default_stream(self._device))
        return landed
