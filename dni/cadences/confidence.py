"""How long must a block accumulate until it may trust its gradient?"""

from __future__ import annotations

from dataclasses import dataclass

from dni.cadences.cadence import Window

__all__ = ["ByConfidence"]


@dataclass(frozen=True, kw_only=True)
class ByConfidence:
    """Accumulate for as many samples as the block's gradient noise scale asks for.

    K = clip(round(noise scale / samples of a microbatch), shortest, longest), decided when a window begins; K changes
    only if that is further from it than `hysteresis`. At K = 1 nothing can be measured, so one window in `look_every`
    is then of two steps.    Source: the noise scale is that of McCandlish et al. 2018 (`NoiseScale`); accumulating by
    it, block by block, is ours: the literature scales batch sizes or learning rates with it.
    """

    shortest: int = 1
    """Fewest steps of a window."""
    longest: int = 32
    """Most steps of a window."""
    start: int = 2
    """Steps of a window until the noise is known; 2 at least, or nothing is measured."""
    hysteresis: float = 1.5
    """The factor by which K must be wrong, either way, before it changes; 1: it follows every estimate."""
    decay: float = 0.95
    """Share of the averages that is kept at an update."""
    warmup: int = 10
    """Windows to measure before K first changes."""
    look_every: int = 16
    """At K = 1: updates from one window of two steps to the next."""

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(f"1 <= shortest <= longest must hold, got {self.shortest} and {self.longest} steps.")
        if self.start < 2:
            raise ValueError(f"start must be at least 2 steps (one microbatch shows no noise), got {self.start}.")
        if not self.hysteresis >= 1.0:
            raise ValueError(f"hysteresis is a factor of at least 1, got {self.hysteresis}.")
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"decay is a share and must lie in [0, 1), got {self.decay}.")
        if self.warmup < 1 or self.look_every < 2:
            raise ValueError(f"warmup must be at least 1, look_every 2, got {self.warmup} and {self.look_every}.")

    @property
    def foreseeable(self) -> bool:
        return False

    @property
    def noise_decay(self) -> float:
        return self.decay

    def due(self, step: int, window: Window) -> bool:
        memory = window.memory
        if window.num_steps == 1 or "length" not in memory:
            memory["wanted"] = self._wanted(window)
            looks = memory["wanted"] == 1 and window.num_updates % self.look_every == 0
            memory["length"] = 2 if looks else memory["wanted"]
        return window.num_steps >= memory["length"]

    def _wanted(self, window: Window) -> int:
        now = int(window.memory.get("wanted", self.start))
        noise = window.noise
        if noise is None or noise.num_estimates < self.warmup or (scale := noise.value) is None:
            return now
        steps = scale / window.samples_per_microbatch
        wanted = self.longest if steps >= self.longest else max(self.shortest, round(steps))
        return now if now / self.hysteresis <= wanted <= now * self.hysteresis else wanted
