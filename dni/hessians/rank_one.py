"""Is an eigenvector of a layer's Hessian, seen as a weight, the product of an output and an input direction?

Letters: a weight is m outputs by n inputs (of a convolution all but the first axis flattened); k eigenvectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

__all__ = ["input_alignment", "rank_one_energy"]


def rank_one_energy(vectors: Tensor, shape: Sequence[int]) -> Tensor:
    """σ₁² / Σ σ² of each vector as a matrix: 1 if it has rank one, at least 1 / min(m, n).

    Source: Wu et al. 2020 (arXiv 2010.04261), low rank of reshaped eigenvectors.

    Args:
        vectors: (m n, k), of the weight alone, without a bias.
        shape: the weight's, (m, ...).

    Returns:
        (k,).

    Raises:
        ValueError: they are not of a weight of this shape.
    """
    energies: Tensor = torch.linalg.svdvals(_matrices(vectors, shape)).square()
    share: Tensor = energies[:, 0] / energies.sum(1)
    return share


def input_alignment(vectors: Tensor, shape: Sequence[int], mean_input: Tensor) -> Tensor:
    """|cos| between the leading input direction of each vector and the layer's mean input E[x].

    Source: Wu et al. 2020 (arXiv 2010.04261).

    Args:
        vectors: (m n, k).
        shape: the weight's, (m, ...).
        mean_input: E[x], (n,); as `KroneckerFactors.mean_input`.

    Returns:
        (k,), in [0, 1].

    Raises:
        ValueError: they are not of a weight of this shape, or E[x] has not n entries.
    """
    matrices = _matrices(vectors, shape)
    if mean_input.shape != matrices.shape[2:]:
        raise ValueError(f"a mean input must have {matrices.shape[2]} entries, got {tuple(mean_input.shape)}.")
    directions: Tensor = torch.linalg.svd(matrices, full_matrices=False)[2][:, 0]
    return (directions @ torch.nn.functional.normalize(mean_input.to(directions), dim=0)).abs()


def _matrices(vectors: Tensor, shape: Sequence[int]) -> Tensor:
    """(k, m, n)."""
    if vectors.dim() != 2 or len(shape) < 2 or len(vectors) != prod(shape):
        raise ValueError(
            f"vectors must be (P, k) with the P = {prod(shape)} entries of a weight {tuple(shape)} of two axes or "
            f"more, got {tuple(vectors.shape)}. Choose the weight alone, as parameters=['layer.weight']."
        )
    return vectors.T.reshape(vectors.shape[1], shape[0], -1)
