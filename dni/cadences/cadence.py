"""When does a block of parameters apply the gradient it has accumulated?

A cadence is asked once per microbatch of the stage, in order, and answers from the step and from what the block has
accumulated since it was last due (its `Window`). Steps are counted in microbatches that the stage gets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from dni.cadences.noise_scale import NoiseScale

__all__ = ["Applied", "ByFunction", "Cadence", "Periodic", "Phases", "RandomCadence", "Window"]


def _no_draw(step: int) -> float:
    raise ValueError("this cadence draws: ask it with a Window whose draw gives keyed numbers.")


@dataclass(frozen=True, slots=True)
class Applied:
    """What an update of a block held."""

    block: str
    """Name of the block."""
    num_microbatches: int
    """The length of its accumulation; 0: the block drifted."""
    num_samples: int
    num_updates: int
    """Of the block, this one included."""
    noise_scale: float | None
    """In samples; None: it is not measured, or not known yet."""


@dataclass(slots=True)
class Window:
    """What a block has accumulated. Whoever runs the block keeps it; a cadence reads it, and may write its `memory`."""

    block: str
    """Name of the block."""
    draw: Callable[[int], float] = _no_draw
    """A number in [0, 1) of a step, keyed by seed and block: the same whoever asks, and however often."""
    num_steps: int = 0
    """Microbatches forwarded since the block last fell due, the one that is asked about included."""
    num_microbatches: int = 0
    """Microbatches in the accumulated gradient; those on their way are not among them yet."""
    num_samples: int = 0
    """Samples in it."""
    num_updates: int = 0
    """Updates of the block so far."""
    samples_per_microbatch: float = 0.0
    """Mean of the last update; 0 before the first."""
    rate: float = 1.0
    """Factor of the learning rate that the newest of its microbatches asks for (`Participation`)."""
    noise: NoiseScale | None = None
    """The block's gradient noise, if its cadence asks for that."""
    memory: dict[str, float] = field(default_factory=dict)
    """Numbers that the cadence keeps from step to step; they go on in checkpoints."""

    def accumulate(self, num_samples: int, *, rate: float = 1.0) -> None:
        """The gradient of a microbatch was added."""
        self.num_microbatches += 1
        self.num_samples += num_samples
        self.rate = rate

    def close(self) -> Applied:
        """What was accumulated has been applied."""
        self.num_updates += 1
        applied = self._applied(self.num_microbatches, self.num_samples)
        self.samples_per_microbatch = self.num_samples / self.num_microbatches
        self.num_microbatches = self.num_samples = 0
        return applied

    def drifted(self) -> Applied:
        """The block went on along its momentum."""
        return self._applied(0, 0)

    def _applied(self, num_microbatches: int, num_samples: int) -> Applied:
        return Applied(
            block=self.block,
            num_microbatches=num_microbatches,
            num_samples=num_samples,
            num_updates=self.num_updates,
            noise_scale=None if self.noise is None else self.noise.value,
        )


@runtime_checkable
class Cadence(Protocol):
    """Decides at which steps accumulated gradients are applied."""

    @property
    def foreseeable(self) -> bool:
        """Whether step and draw alone decide, so that other stages know what this one will do."""

    @property
    def noise_decay(self) -> float | None:
        """The share of the noise estimate kept at an update, in [0, 1); None: the cadence does not ask for noise."""

    def due(self, step: int, window: Window, /) -> bool:
        """Whether an update falls due once the microbatch `step` has been learned from."""


@dataclass(frozen=True)
class Periodic:
    """Apply every `period` steps, after steps period - 1, 2 period - 1, ..."""

    period: int = 1
    """Steps from one update to the next."""

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ValueError(f"a cadence's period must be at least 1 step, got {self.period}.")

    @property
    def foreseeable(self) -> bool:
        return True

    @property
    def noise_decay(self) -> None:
        return None

    def due(self, step: int, window: Window | None = None) -> bool:
        return (step + 1) % self.period == 0


@dataclass(frozen=True)
class RandomCadence:
    """Apply after each step with a fixed probability, so that windows are 1 / rate steps long on the average."""

    rate: float
    """Probability that a step ends a window, in (0, 1]."""

    def __post_init__(self) -> None:
        if not 0.0 < self.rate <= 1.0:
            raise ValueError(f"a random cadence's rate is a probability in (0, 1], got {self.rate}.")

    @property
    def foreseeable(self) -> bool:
        return True

    @property
    def noise_decay(self) -> None:
        return None

    def due(self, step: int, window: Window) -> bool:
        return window.draw(step) < self.rate


@dataclass(frozen=True)
class Phases:
    """One cadence after another: the first before step `at[0]`, the next from there on to `at[1]`, and so on.

    Slow blocks only late in training: `Phases((20_000,), (Periodic(), Periodic(8)))`.
    """

    at: tuple[int, ...]
    """Increasing steps, from 1 on, at which the next cadence takes over."""
    cadences: tuple[Cadence, ...]
    """One more than there are steps."""

    def __post_init__(self) -> None:
        edges = [0, *self.at]
        if edges != sorted(set(edges)):
            raise ValueError(f"phases must begin at increasing steps from 1 on, got at {self.at}.")
        if len(self.cadences) != len(edges):
            raise ValueError(f"{len(self.at)} changes need {len(edges)} cadences, got {len(self.cadences)}.")
        for cadence in self.cadences:
            if not isinstance(cadence, Cadence):
                raise TypeError(f"a phase must be a Cadence (Periodic, ByConfidence, ...), got {cadence!r}.")
        if len({cadence.noise_decay for cadence in self.cadences} - {None}) > 1:
            raise ValueError("phases that ask for the gradient noise must agree on its decay.")

    @property
    def foreseeable(self) -> bool:
        return all(cadence.foreseeable for cadence in self.cadences)

    @property
    def noise_decay(self) -> float | None:
        return next((c.noise_decay for c in self.cadences if c.noise_decay is not None), None)

    def due(self, step: int, window: Window) -> bool:
        return self.cadences[sum(step >= start for start in self.at)].due(step, window)


@dataclass(frozen=True)
class ByFunction:
    """Apply whenever a function of (step, window) says so; see `Window` for what it may look at and remember."""

    function: Callable[[int, Window], bool]
    noise_decay: float | None = None
    """Ask for the block's gradient noise (`window.noise`), with this share of it kept at an update; None: do not."""

    def __post_init__(self) -> None:
        if self.noise_decay is not None and not 0.0 <= self.noise_decay < 1.0:
            raise ValueError(f"noise_decay is a share and must lie in [0, 1), got {self.noise_decay}.")

    @property
    def foreseeable(self) -> bool:
        return False

    def due(self, step: int, window: Window) -> bool:
        return bool(self.function(step, window))
