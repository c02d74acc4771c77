"""What is a symmetric matrix that is known by its products with vectors only?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

__all__ = ["SymmetricOperator"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SymmetricOperator:
    """A symmetric matrix A, (P, P): a Hessian, a Gauss-Newton matrix, a Kronecker product."""

    size: int
    """P."""
    dtype: torch.dtype
    """Of the vectors it takes and gives; float32 or float64."""
    device: torch.device
    product: Callable[[Tensor], Tensor]
    """v, (P,) -> A v, (P,)."""

    def __call__(self, vector: Tensor) -> Tensor:
        """A v, (P,).

        Raises:
            ValueError: v is no vector of P entries, or A v is not finite.
        """
        if vector.shape != (self.size,):
            raise ValueError(f"a vector must have the {self.size} entries of the operator, got {tuple(vector.shape)}.")
        result = self.product(vector.to(device=self.device, dtype=self.dtype))
        if not bool(result.isfinite().all()):
            raise ValueError(
                f"{int((~result.isfinite()).sum())} of {self.size} entries of a product are not finite: the loss has "
                "no second derivative there (a root or a norm at 0), or overflows. Look at the batches, or smooth it."
            )
        return result

    def dense(self, *, progress: Callable[[int, int], object] | None = None) -> Tensor:
        """A itself, (P, P), by P products; exactly symmetric.

        Args:
            progress: told how many products are done, of how many.
        """
        rows = torch.empty(self.size, self.size, dtype=self.dtype, device=self.device)
        for index, row in enumerate(rows):
            row.zero_()[index] = 1.0
            row.copy_(self(row))
            if progress is not None:
                progress(index + 1, self.size)
        return (rows + rows.T) / 2

    def to_scipy(self) -> LinearOperator:
        """A for SciPy and NumPy, on the CPU and in the same precision."""

        def matvec(vector: np.ndarray) -> np.ndarray:
            # A copy: SciPy may hand out a view of its workspace, with strides that torch does not take.
            result: np.ndarray = self(torch.from_numpy(vector.reshape(-1).copy())).cpu().numpy()
            return result

        dtype = {torch.float32: np.float32, torch.float64: np.float64}.get(self.dtype)
        if dtype is None:
            raise TypeError(f"SciPy computes in float32 or float64, got {self.dtype}. Take one of these.")
        return LinearOperator((self.size, self.size), matvec=matvec, rmatvec=matvec, dtype=dtype)
