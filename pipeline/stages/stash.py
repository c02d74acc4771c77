"""What does a stage keep from a microbatch's forward until its gradient arrives?

`hold`: the graph, so that the backward is exact. An update that is due waits until nothing is held.
`recompute`: the input; the backward runs the forward again, with the weights of today.
`weights`: the graph over a copy of the weights of the forward; the gradient moves the weights of today (PipeDream).
`graph`: the graph without any weights; the backward takes those of today (PipeMare).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import Tensor

from pipeline.learners.carried_states import States
from pipeline.messages import Gradient, OutputError, Payload

__all__ = ["GRADIENT", "NOTHING", "OUTPUT_ERROR", "Forwarded", "Part", "Parts", "Stash", "StashPolicy"]

Part: TypeAlias = Literal["gradient", "error", "loss"]
Parts: TypeAlias = frozenset[Part]
"""What other stages send of a microbatch after its forward: dL/dh, dL/dy, and the loss of each sample."""
GRADIENT: Parts = frozenset({"gradient"})
OUTPUT_ERROR: Parts = frozenset({"error", "loss"})
"""What comes in one message, from the last stage."""
NOTHING: Parts = frozenset()

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
    """True: the backward waits for the gradient from above, or for what the source makes one of."""
    graph: Payload | None = None
    """The output with its graph; None for recompute, and once nothing is to be pulled back."""
    sync: bool = False
    """True: the true gradient is used instead of what the source would say."""
    asks: bool = False
    """True: what arrives from above is the source's to make a gradient of; False: it is used as it is."""
    wanted: bool = True
    """Whether the stage below makes anything of dL/dx; False: it gets a credit, and dL/dx is not computed."""
    goes_on: bool = True
    """False: the stages above, which are on a slower clock, do not get it."""
    update_due: bool = False
    """True: an update is due right after this step (with stash hold, the stage waits for it)."""
    forward_s: float = 0.0
    """What the forward cost."""
    weights: Mapping[str, Tensor] | None = None
    """The weights that the graph is over, where they are not the module's own."""
    began_with: States = field(default_factory=dict)
    """What its layers that carry state had kept of the microbatch before."""
    probe: bool = False
    """True: nothing is learned from it, and its gradients are graded when they come back."""
    awaited: Parts = GRADIENT
    """What is still to come; the microbatch is in flight until all has."""
    lessons: Parts = NOTHING
    """What the source will learn from; nothing, once it has."""
    gradient: Payload | None = None
    """What the stage above has sent, if it has come and not as a credit."""
    generation: int = 0
    """Changes of structure at the stage's output before its forward."""
    generation_below: int = 0
    """Likewise at its input."""
    gradient_generation: int = 0
    """Of whose units `gradient` is."""
    structure: int = 0
    """Changes of structure of the stage before its forward."""
    own_weights: Mapping[str, Tensor] | None = None
    """The parameters that the module had then, while the graph is over them."""
    exact: bool = False
    """Whether that is the true gradient, of the weights of today."""
    error: Tensor | None = None
    """What the last stage has sent: dL/dy, (N, C)."""
    loss: Tensor | None = None
    """What the last stage has sent: the loss of each sample, (N,)."""
    estimate: Payload | None = None
    """What the source has said already; the backward has yet to come."""

    def answer(self, message: Gradient) -> None:
        """The stage above has answered."""
        self.awaited -= GRADIENT
        if message.dropped:
            self.awaited -= OUTPUT_ERROR  # the last stage will never see it
        self.gradient, self.exact = message.value, message.exact
        self.gradient_generation = message.generation

    def tell(self, message: OutputError) -> None:
        """The last stage has said what it says of this microbatch, or of a later one: then this one was dropped."""
        self.awaited -= OUTPUT_ERROR
        if message.step == self.step:
            self.error, self.loss = message.value, message.loss_per_sample

    def has_come(self, parts: Parts) -> bool:
        """Whether nothing of these is still to come."""
        return not parts & self.awaited

    def has_all(self, parts: Parts) -> bool:
        """Whether these have come, each with a value."""
        return all(getattr(self, part) is not None for part in parts)

    def let_go(self) -> None:
        """Drop what only the backward needs; h stays, for the source to learn from."""
        self.x = self.graph = self.weights = self.own_weights = self.estimate = None
        self.began_with = {}


class Stash:
    """The unanswered microbatches of one stage, by step; a drain keeps evaluation and training apart.

    Args:
        policy: what is kept of each.
    """

    def __init__(self, policy: StashPolicy) -> None:
        self._entries: dict[int, Forwarded] = {}
        self.policy: StashPolicy = policy
        self.num_held = 0
        """Microbatches whose backward waits for something from another stage."""
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

    @property
    def expects_error(self) -> bool:
        """Whether the oldest microbatch has yet to hear from the last stage."""
        oldest = next(iter(self._entries.values()), None)
        return oldest is not None and bool(oldest.awaited & OUTPUT_ERROR)

    def find(self, step: int) -> Forwarded:
        """The microbatch that a gradient answers."""
        assert step in self._entries, f"a gradient answers step {step}, in flight: {sorted(self._entries)}"
        return self._entries[step]

    def find_untold(self, step: int) -> list[Forwarded]:
        """Those up to this step that have not heard from the last stage yet, in order."""
        return [entry for entry in self._entries.values() if entry.step <= step and entry.awaited & OUTPUT_ERROR]

    def release(self, entry: Forwarded) -> None:
        """Nothing is to be pulled back any more, or is from here on."""
        self.num_held -= entry.held
        self._num_syncs -= entry.sync and entry.held
        entry.held = False

    def take(self, step: int) -> Forwarded:
        """The microbatch of this step; it is no longer in flight."""
        entry = self.find(step)
        self.release(entry)
        del self._entries[step]
        return entry
