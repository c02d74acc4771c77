"""How is one long sequence read in windows that go on from one microbatch to the next?

Letters: M positions of the whole sequence, N streams, L positions of a stream, T of a window.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pipeline.data.feed import Batch
from pipeline.errors import ConfigurationError

__all__ = ["StreamBatches"]


class StreamBatches:
    """Microbatches of N streams in parallel, each a contiguous part of the sequence, in windows of T positions.

    Stream n holds the positions [n L, (n + 1) L), L = M // N, and the microbatch of step s those of its window s: x
    (N, T, ...) and target (N, T, ...). After `steps_per_epoch` = L // T steps every stream is read from its beginning
    again, so that is the `period` of a layer that carries state (`Carrying`). What is left at the ends is not read.

    Args:
        x: (M, ...), a position after the other.
        target: (M, ...).
        num_streams: N, the samples of every microbatch.
        window: T.

    Raises:
        ConfigurationError: x and target do not pair up, or there is no whole window in a stream.
    """

    exact = True
    draws = False

    def __init__(self, x: Tensor, target: Tensor, *, num_streams: int, window: int) -> None:
        if len(x) != len(target):
            raise ConfigurationError(f"inputs and labels must pair up, got {len(x)} inputs and {len(target)} labels.")
        if num_streams < 1 or window < 1 or num_streams * window > len(x):
            raise ConfigurationError(
                f"num_streams and window must be at least 1, and {len(x)} positions must hold a window of each stream, "
                f"got {num_streams} streams and windows of {window}: {num_streams * window} positions."
            )
        length = len(x) // num_streams
        self.steps_per_epoch = length // window
        self.target = target
        read = num_streams * length
        self._x, self._y = (part[:read].reshape(num_streams, length, *part.shape[1:]) for part in (x, target))
        self._window = window

    def peek(self) -> Batch:
        """The first microbatch."""
        return next(self.start(0))

    def start(self, step: int) -> Iterator[Batch]:
        """The microbatches from `step` on."""
        while True:
            first = step % self.steps_per_epoch * self._window
            window = slice(first, first + self._window)
            # A copy: a view into the sequence would leave its bits to where in memory it lies.
            yield self._x[:, window].clone(), self._y[:, window].clone()
            step += 1
