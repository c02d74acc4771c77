"""How far down does the true gradient reach at this step?

reach = k: the top k stages use the true gradient at this step, and below them each stage uses its own source.
The last stage always has the true gradient, because its source is the loss; so a reach of 0 and of 1 mean the
same. The first stage asks its policy once per step; the answer travels with the activation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

__all__ = ["Alternating", "Always", "Bernoulli", "Every", "Never", "Piecewise", "SyncPolicy", "WhenWorse"]


@runtime_checkable
class SyncPolicy(Protocol):
    """Decides, once per step, how many stages counted from the top use the true gradient."""

    def reach(self, step: int, *, num_stages: int, generator: torch.Generator, quality: float | None = None) -> int:
        """The reach of `step`, 0 to `num_stages`.

        Args:
            step: index of the microbatch.
            num_stages: of the network.
            generator: for draws; keyed by (seed, step).
            quality: the lowest cosine with the true gradient that any stage's source had when it was last compared (at
                sync steps), as far as the first stage has heard of it; None: no source has been compared yet.
        """


@dataclass(frozen=True)
class Never:
    """No step is a sync step."""

    def reach(self, step: int, *, num_stages: int, generator: torch.Generator, quality: float | None = None) -> int:
        return 0


@dataclass(frozen=True)
class Always:
    """Every step is a sync step."""

    top: int | None = None
    """How many stages, counted from the top, use the true gradient; None: all of them."""

    def __post_init__(self) -> None:
        _check_top(self.top)

    def reach(self, step: int, *, num_stages: int, generator: torch.Generator, quality: float | None = None) -> int:
        return _reach(self.top, num_stages)


@dataclass(frozen=True)
class Every:
    """One step in `period` is a sync step: steps period - 1, 2 period - 1, ..."""

    period: int
    """Steps from one sync to the next."""
    top: int | None = None
    """How many stages, counted from the top, a sync reaches; None: all of them."""

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ValueError(f"a sync period must be at least 1 step, got {self.period}.")
        _check_top(self.top)

    def reach(self, step: int, *, num_stages: int, generator: torch.Generator, quality: float | None = None) -> int:
        return _reach(self.top, num_stages) if (step + 1) % self.period == 0 else 0


@dataclass(frozen=True)
class Bernoulli:
    """Each step is a sync step with a probability of its own draw."""

    probability: float
    """Probability that a step is a sync step, 0 to 1."""
    top: int | None = None
    """How many stages, counted from the top, a sync reaches; None: all of them."""
    otherwise: int = 0
    """The reach of the steps not drawn (probabilistic layer-wise sparse SGD: the top k always learn)."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(
                f"a sync probability must lie in [0, 1], got {self.probability}. "
                "Use 0 for no syncs and 1 for a sync at every step."
            )
        _check_top(self.top)
        _check_top(self.otherwise)

    def reach(self, step: int, *, num_stages: int, generator: torch.Generator, quality: float | None = None) -> int:
        drawn = torch.rand((), generator=generator, dtype=torch.float64).item() < self.probability
        return _reach(self.top, num_stages) if drawn else min(self.otherwise, num_stages)


@dataclass(frozen=True)
class Alternating:
    """True gradients and those of the sources take turns, and change over at warm restarts of the learning rate.

    Before the first restart every step is a sync, from the first to the second none is, and so on; the sources learn
    all the time. `CosineRestarts` is the schedule with the same restarts.    Source: Shang & Zhang 2019 (arXiv
    1902.10630) and its code: restarts at epoch 5 2^k, beginning without synthetic gradients. Differs: the true gradient
    reaches through the whole network, theirs was cut where a window of truncated backpropagation ends.
    """

    at: tuple[int, ...]
    """Increasing steps of the restarts; `doubling_restarts` makes them."""
    top: int | None = None
    """How many stages, counted from the top, a sync reaches; None: all of them."""

    def __post_init__(self) -> None:
        if list(self.at) != sorted(set(self.at)):
            raise ValueError(f"the steps of the restarts must increase, got {self.at}.")
        _check_top(self.top)

    def reach(self, step: int, *, num_stages: int, generator: torch.Generator, quality: float | None = None) -> int:
        num_restarts = sum(step >= restart for restart in self.at)
        return 0 if num_restarts % 2 else _reach(self.top, num_stages)


@dataclass(frozen=True)
class WhenWorse:
    """The true gradient where a source has been found to be worse than a threshold, until it is better again.

    Sources are compared with the truth at sync steps, so one step in `probe_every` is a sync in any case; and every
    step is one until a first comparison has come down to the first stage, which decides from reports of earlier steps.
    A report travels with the gradients; a network none of whose sources learns has nothing to report, and always syncs.
    """

    threshold: float
    """Cosine with the true gradient, -1 to 1, below which a source is not trusted."""
    probe_every: int = 50
    """Steps from one sync to the next while all sources are good enough."""
    top: int | None = None
    """How many stages, counted from the top, a sync reaches; None: all of them."""

    def __post_init__(self) -> None:
        if not -1.0 <= self.threshold <= 1.0:
            raise ValueError(f"a threshold for cosines must lie in [-1, 1], got {self.threshold}.")
        if self.probe_every < 1:
            raise ValueError(f"probe_every must be at least 1 step, got {self.probe_every}.")
        _check_top(self.top)

    def reach(self, step: int, *, num_stages: int, generator: torch.Generator, quality: float | None = None) -> int:
        bad = quality is None or quality < self.threshold
        return _reach(self.top, num_stages) if bad or (step + 1) % self.probe_every == 0 else 0


@dataclass(frozen=True)
class Piecewise:
    """One policy after another: `policies[i]` holds before step `boundaries[i]`, the last from there on."""

    policies: tuple[SyncPolicy, ...]
    """The policies in order, one more than there are boundaries."""
    boundaries: tuple[int, ...]
    """Increasing steps at which the next policy takes over."""

    def __post_init__(self) -> None:
        if len(self.policies) != len(self.boundaries) + 1:
            raise ValueError(
                f"{len(self.boundaries)} boundaries separate {len(self.boundaries) + 1} policies, "
                f"got {len(self.policies)}. Give one policy per phase."
            )
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"the boundaries of the phases must increase, got {self.boundaries}.")

    def reach(self, step: int, *, num_stages: int, generator: torch.Generator, quality: float | None = None) -> int:
        phase = sum(step >= boundary for boundary in self.boundaries)
        return self.policies[phase].reach(step, num_stages=num_stages, generator=generator, quality=quality)


def _check_top(top: int | None) -> None:
    if top is not None and top < 0:
        raise ValueError(f"a reach counts stages from the top and cannot be negative, got {top}.")


def _reach(top: int | None, num_stages: int) -> int:
    return num_stages if top is None else min(top, num_stages)
