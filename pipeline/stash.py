"""What does a stage keep from a microbatch's forward until its gradient arrives?

`hold`: the graph, so that the backward is exact. An update that is due waits until nothing is held.
`recompute`: the input; the backward runs the forward again, with the weights of today.
`weights`: the graph over a copy of the weights of the forward; the gradient moves the weights of today (PipeDream).
`graph`: the graph without any weights; the backward takes those of today (PipeMare).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from pipeline.messages import Payload

__all__ = ["Forwarded", "Stash", "StashPolicy"]

StashPolicy: TypeAlias = Literal["hold", "recompute", "weights", "graph"]


@dataclass(slots=True)
class Forwarded:
    """One microbatch that was sent on and not yet answered."""

    step: int
    x: Payload | None
    """The stage's input; None once nothing is to be pulled back."""
    h: Payload
    """The stage's output, without its graph."""
    target: Tensor | None
    version: int
    """The stage's own version at the forward; staleness is counted from it."""
    learns: bool
    """False: forwarded only (evaluation, or a step its update probability did not draw)."""
    held: bool
    """True: the backward waits for the gradient from above."""
    graph: Payload | None = None
    """The output with its graph; None for recompute, and once nothing is to be pulled back."""
    sync: bool = False
    """True: the true gradient is used instead of what the source would say."""
    asks: bool = False
    """True: what arrives from above is the source's to make a gradient of; False: it is used as it is."""
    wanted: bool = True
    """Whether the stage below makes anything of dL/dx; False: it gets a credit, and dL/dx is not computed."""
    update_due: bool = False
    """True: an update is due right after this step (with stash hold, the stage waits for it)."""
    forward_s: float = 0.0
    """What the forward cost."""
    weights: Mapping[str, Tensor] | None = None
    """The weights that the graph is over, where they are not the module's own."""
    probe: bool = False
    """True: nothing is learned from it, and its gradients are graded when they come back."""

    def let_go(self) -> None:
        """Drop what only the backward needs; h stays, for the source to learn from."""
        self.x = self.graph = self.weights = None


class Stash:
    """The unanswered microbatches of one stage, by step; a drain keeps evaluation and training apart.

    Args:
        policy: what is kept of each.
    """

    def __init__(self, policy: StashPolicy) -> None:
        self._entries: dict[int, Forwarded] = {}
        self.policy: StashPolicy = policy
        self.num_held = 0
        """Microbatches whose backward waits for the gradient from above."""
        self.most_held = 0
        """The largest `num_held` so far: what the memory has to suffice for."""
        self._num_syncs = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_due(self) -> int:
        """Updates that will be applied before the gradient of a microbatch that is forwarded now; with hold, none."""
        return sum(entry.held and entry.update_due for entry in self._entries.values())

    @property
    def holds(self) -> bool:
        """Whether a graph is held that an update would break."""
        return self.policy == "hold" and self.num_held > 0

    @property
    def holds_sync(self) -> bool:
        """Whether a sync step waits, so that nothing of a later step may be handled (a sync step is exact)."""
        return self.policy == "hold" and self._num_syncs > 0

    def put(self, entry: Forwarded) -> None:
        """Keep a microbatch until it is answered."""
        assert entry.step not in self._entries, f"step {entry.step} is already in flight"
        self._entries[entry.step] = entry
        self.num_held += entry.held
        self.most_held = max(self.most_held, self.num_held)
        self._num_syncs += entry.sync and entry.held

    def take(self, step: int) -> Forwarded:
        """The microbatch that a gradient answers; it is no longer in flight."""
        assert step in self._entries, f"a gradient answers step {step}, in flight: {sorted(self._entries)}"
        entry = self._entries.pop(step)
        self.num_held -= entry.held
        self._num_syncs -= entry.sync and entry.held
        return entry
