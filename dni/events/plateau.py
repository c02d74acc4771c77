"""Has the training loss stopped falling, so that an event is due?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["OnPlateau", "PlateauState"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlateauState:
    """What has been seen of the loss: a value, kept in the checkpoint. The defaults are those before the first step."""

    num_losses: int = 0
    """Seen since the beginning, or since the last event and its cooldown."""
    smoothed: float = 0.0
    """Mean loss of late; of no meaning before the first loss."""
    best: float = 0.0
    """The lowest that it has been; likewise."""
    num_waited: int = 0
    """Losses since it was that low."""
    num_cooling: int = 0
    """Losses still to be passed over."""
    num_events: int = 0
    """So far."""


@dataclass(frozen=True, kw_only=True)
class OnPlateau:
    """When the smoothed training loss has not fallen by `min_delta` below its best for `patience` losses.

    After an event everything is seen anew: `cooldown` losses are passed over, and the next one is the best so far. Not
    foreseeable.
    """

    patience: int
    """Losses without an improvement, at least 1."""
    min_delta: float = 0.0
    """In units of the loss: how far it must fall below its best to have improved."""
    smoothing: float = 0.9
    """Part of the smoothed loss that stays at each loss, in [0, 1); 0 looks at the last loss alone."""
    cooldown: int = 0
    """Losses after an event that are not looked at."""
    at_most: int | None = None
    """Number of events of a run; None: as many as there are plateaus."""

    def __post_init__(self) -> None:
        if self.patience < 1 or self.cooldown < 0:
            raise ValueError(
                f"a plateau is at least 1 loss long and cools down for 0 or more, got patience={self.patience}, "
                f"cooldown={self.cooldown}."
            )
        if not (0.0 <= self.min_delta < math.inf and 0.0 <= self.smoothing < 1.0):
            raise ValueError(
                f"min_delta must be finite and 0 or more, and smoothing in [0, 1), got {self.min_delta} and "
                f"{self.smoothing}."
            )
        if self.at_most is not None and self.at_most < 1:
            raise ValueError(f"a run must be allowed 1 event or more, got at_most={self.at_most}. Leave the event out.")

    def check(self, *, num_steps: int, steps_per_epoch: int | None) -> None:
        """Raise `ValueError` if a run is too short to have a plateau."""
        if self.patience >= num_steps:
            raise ValueError(
                f"a plateau of {self.patience} losses after a first one must fit into the run, which has {num_steps} "
                "steps. Lower the patience, or train for longer."
            )

    def observe(self, state: PlateauState, loss: float) -> tuple[PlateauState, bool]:
        """The state after one more training loss (per sample), and whether the event is due now.

        Raises:
            ValueError: the loss is not finite.
        """
        if not math.isfinite(loss):
            raise ValueError(f"a plateau is seen in losses that are finite, got {loss}. Lower the learning rate.")
        if self.at_most is not None and state.num_events >= self.at_most:
            return state, False
        if state.num_cooling:
            return replace(state, num_cooling=state.num_cooling - 1), False
        smoothed = self.smoothing * state.smoothed + (1 - self.smoothing) * loss if state.num_losses else loss
        improved = not state.num_losses or smoothed < state.best - self.min_delta
        waited = 0 if improved else state.num_waited + 1
        if waited >= self.patience:
            return PlateauState(num_cooling=self.cooldown, num_events=state.num_events + 1), True
        seen = replace(
            state,
            num_losses=state.num_losses + 1,
            smoothed=smoothed,
            best=smoothed if improved else state.best,
            num_waited=waited,
        )
        return seen, False
