"""How are the entries of a tensor spread, in few numbers?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Histogram", "binned"]

_NUM_BINS = 30
"""What TensorBoard draws; with more it would bin them again."""


class Histogram(NamedTuple):
    """Counts in bins of one width, from the least to the largest entry."""

    low: float
    high: float
    total: float
    """Sum of the entries."""
    total_squares: float
    counts: list[float]
    """One if all entries are equal."""

    @property
    def limits(self) -> list[float]:
        """The upper end of each bin."""
        width = (self.high - self.low) / len(self.counts)
        return [*(self.low + width * number for number in range(1, len(self.counts))), self.high]


def binned(values: Tensor) -> Histogram | None:
    """The histogram of all finite entries of a tensor of any shape, dtype and device; None if there are none.

    On the CPU, because the same on a GPU is refused where deterministic algorithms are asked for.
    """
    flat = values.detach().flatten().to(device="cpu", dtype=torch.float64)
    flat = flat[flat.isfinite()]
    if not len(flat):
        return None
    low, high, total, squares = torch.stack([flat.min(), flat.max(), flat.sum(), flat.dot(flat)]).tolist()
    counts = torch.histc(flat, bins=_NUM_BINS, min=low, max=high).tolist() if low < high else [float(len(flat))]
    return Histogram(low, high, total, squares, counts)
