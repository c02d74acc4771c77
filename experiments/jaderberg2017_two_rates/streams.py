"""Which digits do the two networks see, and what are they to count?

Letters: N streams, D digits of a window of the slow network, T digits from one of its ticks to the next, M images.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline import generator

__all__ = ["NUM_TICKS", "TICK", "WINDOW", "DigitStreams", "counts", "odd", "threes"]

TICK = 4
"""T."""
NUM_TICKS = 4
"""Of the slow network in a window."""
WINDOW = TICK * NUM_TICKS
"""D."""


class DigitStreams:
    """Microbatches of one digit of each of N streams, drawn with replacement; those of a window by one keyed draw.

    Args:
        x: images, (M, F).
        y: which digits they are, (M,).
        num_streams: N.
        seed: of the draws.
    """

    exact = True
    draws = False

    def __init__(self, x: Tensor, y: Tensor, *, num_streams: int, seed: int) -> None:
        self._x, self._y = x, y
        self._num_streams, self._seed = num_streams, seed

    def peek(self) -> tuple[Tensor, Tensor]:
        """The first microbatch."""
        return next(self.start(0))

    def start(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """x (N, F) and target (N, 2) of `step`, `step` + 1, ..."""
        number, first = divmod(step, WINDOW)
        while True:
            drawn = generator(self._seed, "digits", number)
            chosen = torch.randint(len(self._x), (WINDOW, self._num_streams), generator=drawn)
            target = counts(self._y[chosen])
            for position in range(first, WINDOW):
                yield self._x[chosen[position]], target[position]
            number, first = number + 1, 0


def counts(y: Tensor) -> Tensor:
    """What is to be reported after each digit of a window.

    Args:
        y: digits, (D, N).

    Returns:
        (D, N, 2): the odd digits since the last tick of the slow network, and the threes since the window began; the
        digit itself is counted.
    """
    is_odd, is_three = y % 2, (y == 3).long()
    since_tick = is_odd.view(NUM_TICKS, TICK, -1).cumsum(1).flatten(0, 1)
    return torch.stack([since_tick, is_three.cumsum(0)], dim=-1)


def odd(target: Tensor) -> Tensor:
    """The fast network's labels, (N,)."""
    return target[..., 0]


def threes(target: Tensor) -> Tensor:
    """The slow network's labels, (N,)."""
    return target[..., 1]
