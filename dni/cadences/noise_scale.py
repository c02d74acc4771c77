"""How many samples does it take until a block's gradient says more than its noise?

Letters: m microbatches of a window, n_i samples of one, B = sum n_i, G the true gradient, S the covariance of the
gradient of one sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["NoiseScale"]


@dataclass(slots=True)
class NoiseScale:
    """A running estimate of the simple noise scale, tr S / |G|^2, in samples.

    A mean gradient of n samples has E|g|^2 = |G|^2 + tr S / n. So the microbatches of a window, and the window as a
    whole, give both unknowns:

        tr S  = (mean |g_i|^2 - |g|^2) / (mean 1/n_i - 1/B)        |G|^2 = |g|^2 - tr S / B

    Source: McCandlish et al. 2018 (arXiv 1812.06162), appendix A.1, with b = n_i, B the window; numerator and
    denominator are averaged apart, as there. Differs: microbatches may differ in size, and each window gives one
    estimate. A window of one microbatch says nothing.
    """

    decay: float
    """Share of the averages kept at a window, in [0, 1)."""
    num_estimates: int = 0
    """Windows that have said something."""
    trace: float = 0.0
    """Running tr S, not divided by what the decay leaves out at first: the ratio does not need it."""
    square: float = 0.0
    """Running |G|^2, likewise."""
    square_sum: float = 0.0
    """Of the open window: sum of |g_i|^2."""
    inverse_sum: float = 0.0
    """Of the open window: sum of 1 / n_i."""
    num_microbatches: int = 0
    """Of the open window: m."""

    @property
    def value(self) -> float | None:
        """The noise scale in samples; infinite where the gradient cannot be told from 0; None: nothing is known yet."""
        if not self.num_estimates:
            return None
        if self.square <= 0.0:
            return math.inf
        return max(0.0, self.trace) / self.square

    def add(self, square: float, *, num_samples: int) -> None:
        """A microbatch's summed gradient had this squared norm."""
        self.square_sum += square / num_samples**2
        self.inverse_sum += 1.0 / num_samples
        self.num_microbatches += 1

    def close(self, square: float, *, num_samples: int) -> None:
        """The window's mean gradient, of all its samples, has this squared norm."""
        count, self.num_microbatches = self.num_microbatches, 0
        squares, self.square_sum = self.square_sum, 0.0
        inverses, self.inverse_sum = self.inverse_sum, 0.0
        if count < 2 or not math.isfinite(squares + square):
            return
        trace = (squares / count - square) / (inverses / count - 1.0 / num_samples)
        self.trace += (1.0 - self.decay) * (trace - self.trace)
        self.square += (1.0 - self.decay) * (square - trace / num_samples - self.square)
        self.num_estimates += 1

    def state_dict(self) -> dict[str, float]:
        """Everything but the decay."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "decay"}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take over what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, value)
