"""What does a stage keep from a microbatch's forward until its gradient arrives?

`hold`: the graph, so that the backward is exact. An update that is due waits until nothing is held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from pipeline.messages import Payload

__all__ = ["Forwarded", "Stash", "StashPolicy"]

StashPolicy: TypeAlias = Literal["hold", "recompute", "weights"]


@dataclass(slots=True)
class Forwarded:
    """One microbatch that was sent on and not yet answered."""

    step: int
    x: Payload | None
    """The stage's input, with its graph; None once nothing is to be pulled back."""
    h: Payload
    """The stage's output: with its graph while held, detached otherwise."""
    target: Tensor | None
    version: int
    """The stage's own version at the forward; staleness is counted from it."""
    learns: bool
    """False: forwarded only (evaluation, or a step its update probability did not draw)."""
    held: bool
    """True: the backward waits for the gradient from above."""
    blocks: bool
    """True: nothing of a later step is handled before this one's backward (a sync step is exact)."""

    asks: bool = False
    """True: what arrives from above is the source's to make a gradient of; False: it is used as it is."""

    def let_go(self) -> None:
        """Drop the graph; h stays, for the source to learn from."""
        self.x = None
        self.h = tuple(map(_detached, self.h)) if isinstance(self.h, tuple) else self.h.detach()


def _detached(member: Tensor | None) -> Tensor | None:
    return None if member is None else member.detach()


class Stash:
    """The unanswered microbatches of one stage, by step; a drain keeps evaluation and training apart."""

    def __init__(self) -> None:
        self._entries: dict[int, Forwarded] = {}
        self.num_held = 0
        self.num_blocking = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: Forwarded) -> None:
        """Keep a microbatch until it is answered."""
        assert entry.step not in self._entries, f"step {entry.step} is already in flight"
        self._entries[entry.step] = entry
        self.num_held += entry.held
        self.num_blocking += entry.blocks

    def take(self, step: int) -> Forwarded:
        """The microbatch that a gradient answers; it is no longer in flight."""
        assert step in self._entries, f"a gradient answers step {step}, in flight: {sorted(self._entries)}"
        entry = self._entries.pop(step)
        self.num_held -= entry.held
        self.num_blocking -= entry.blocks
        return entry
