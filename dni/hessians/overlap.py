"""Do two Hessians bend in the same directions?

Letters: P parameters, k directions of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["overlap_curve", "random_overlap", "subspace_overlap"]


def subspace_overlap(first: Tensor, second: Tensor) -> float:
    """How much of one subspace lies in another: Tr(P₁ P₂) / k = ‖Uᵀ V‖²_F / k, in [0, 1].

    Source: Wu et al. 2020 (arXiv 2010.04261), overlap of the top eigenspaces of a layer in different models.

    Args:
        first: U, (P, k), orthonormal columns.
        second: V, (P, k).

    Raises:
        ValueError: their shapes differ, or their columns are not orthonormal.
    """
    return float(overlap_curve(first, second)[-1])


def overlap_curve(first: Tensor, second: Tensor) -> Tensor:
    """The overlap of the first 1, 2, ... k columns of each.

    If the inputs of a layer have a large mean, its top eigenspace is near R^m ⊗ E[x], m the rows of its weight, and the
    curve of two models peaks near k = m.

    Args:
        first: U, (P, k), orthonormal columns, in the order of their eigenvalues.
        second: V, (P, k).

    Returns:
        (k,), float64.

    Raises:
        ValueError: as `subspace_overlap`.
    """
    if first.shape != second.shape or first.dim() != 2:
        raise ValueError(
            f"two frames must have one shape (P, k), got {tuple(first.shape)} and {tuple(second.shape)}. Take the same "
            "parameters of both models, and as many vectors of each."
        )
    for name, frame in (("first", first), ("second", second)):
        gap = float((frame.T @ frame - torch.eye(frame.shape[1], dtype=frame.dtype, device=frame.device)).abs().max())
        if gap > 1e-3:
            raise ValueError(
                f"columns must be orthonormal, those of the {name} frame are off by {gap:.3g}. Orthonormalise."
            )
    shared = (first.T @ second).double().square().cumsum(0).cumsum(1).diagonal()
    return shared / torch.arange(1, len(shared) + 1, dtype=torch.float64, device=shared.device)


def random_overlap(k: int, size: int) -> float:
    """What two random subspaces overlap by in the mean: k / P, for a weight of m rows and n columns k / (m n)."""
    if not 1 <= k <= size:
        raise ValueError(f"k must be from 1 to the {size} parameters, got {k}.")
    return k / size
