"""What are the mean and the scatter of rows that come batch by batch?

Letters: N rows so far, n rows of a batch, F numbers to a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Moments"]


class Moments:
    """Adds up rows (n, F), in 64 bits, so that a mean far from 0 costs no digits.

    A batch of mean μ_b and scatter S_b = Σ (x - μ_b)(x - μ_b)ᵀ joins those of the N rows before by
    S ← S + S_b + (N n / (N + n)) d dᵀ with d = μ_b - μ.    Source: Chan, Golub and LeVeque 1983, eq. 2.1, for matrices.
    """

    def __init__(self) -> None:
        self.count = 0
        """N."""
        self._mean = self._scatter = torch.zeros(0, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Take in (n, F).

        Raises:
            ValueError: the rows are of another F than before.
        """
        rows = rows.detach().double()
        origin = rows[:1]  # of equal rows the differences are exactly 0
        shifted = rows - origin
        mean = shifted.mean(0)
        centred = shifted - mean
        mean = mean + origin[0]
        if not self.count:
            self._mean, self._scatter = torch.zeros_like(mean), mean.new_zeros(len(mean), len(mean))
        elif len(mean) != len(self._mean):
            raise ValueError(
                f"rows must keep their width, {len(self._mean)} numbers, got {len(mean)}. Begin anew after the "
                "structure of a layer has changed."
            )
        self._mean, self._scatter = self._mean.to(mean.device), self._scatter.to(mean.device)
        step, total = mean - self._mean, self.count + len(rows)
        between = (self.count * len(rows) / total) * torch.outer(step, step) if self.count else 0.0
        self._scatter = self._scatter + centred.T @ centred + between
        self._mean = self._mean + step * (len(rows) / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """(F,)."""
        return self._mean

    @property
    def scatter(self) -> Tensor:
        """Σ over all rows of (x - mean)(x - mean)ᵀ, (F, F)."""
        return self._scatter

    def correlation(self) -> Tensor:
        """Of each two numbers of a row, over all rows, (F, F); 0 with a number that is always the same."""
        scale = self._scatter.diagonal().sqrt()
        product = torch.outer(scale, scale)
        return torch.where(product > 0, self._scatter / product, torch.zeros_like(product)).clamp(-1.0, 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Count, mean and scatter."""
        return {"count": self.count, "mean": self._mean, "scatter": self._scatter}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.count, self._mean, self._scatter = int(state["count"]), state["mean"], state["scatter"]
