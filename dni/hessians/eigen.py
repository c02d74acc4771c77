"""Which directions does a Hessian bend most, and how much?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from dni.hessians.operator import SymmetricOperator

__all__ = ["Eigenpairs", "End", "eigenpairs"]

End: TypeAlias = Literal["largest", "smallest", "both"]
"""Of the spectrum, by value and sign: the smallest are the most negative. Of both ends, half are from each."""

_WHICH = {"largest": "LA", "smallest": "SA", "both": "BE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Eigenpairs:
    """Some eigenvalues of a symmetric matrix, (P, P), and their vectors."""

    values: Tensor
    """(k,), the outermost first: downwards, upwards for the smallest."""
    vectors: Tensor
    """(P, k), orthonormal columns. The entry of largest size is positive."""
    residuals: Tensor
    """|A v - λ v|, (k,): some eigenvalue of A is within that of λ. More than a rounding error tells of a matrix that is
    not symmetric, as where a module detaches what its loss depends on."""
    num_products: int
    """That were needed, those for the residuals included."""


def eigenpairs(
    operator: SymmetricOperator,
    k: int,
    *,
    generator: torch.Generator,
    end: End = "largest",
    tolerance: float = 0.0,
    max_products: int = 10_000,
    progress: Callable[[int, int], object] | None = None,
) -> Eigenpairs:
    """The k outermost eigenvalues and their vectors, by implicitly restarted Lanczos.

    Of an eigenvalue that is there several times, fewer may be found. Source: Lehoucq, Sorensen and Yang 1998 (ARPACK),
    in SciPy's `eigsh`; for layers, Wu et al. 2020 (arXiv 2010.04261).

    Args:
        operator: A, (P, P).
        k: how many, from 1 to P - 1.
        generator: for the vector to begin from, on the CPU; the same one gives the same result.
        end: of the spectrum.
        tolerance: relative accuracy of the values; 0: as exact as the type allows.
        max_products: about how many products with A may be taken. Usually 3k to 6k suffice, more for close values.
        progress: told how many products are done, of at most how many; what it raises ends the search.

    Raises:
        ValueError: k is out of range.
        RuntimeError: not all converged, or A is 0.
    """
    if not 1 <= k < operator.size:
        raise ValueError(
            f"k must be from 1 to {operator.size - 1}, one less than the parameters, got {k}. For all eigenvalues of a "
            "small matrix use torch.linalg.eigh(operator.dense())."
        )
    num_products = 0

    def counted(vector: Tensor) -> Tensor:
        nonlocal num_products
        result = operator(vector)
        num_products += 1
        if progress is not None:
            progress(min(num_products, max_products), max_products)
        return result

    count = SymmetricOperator(size=operator.size, dtype=operator.dtype, device=operator.device, product=counted)
    start = torch.randn(operator.size, generator=generator, dtype=torch.float64).to(operator.dtype)
    vectors = _search(count.to_scipy(), k, end, start.numpy(), tolerance, max_products)
    basis = torch.from_numpy(vectors).to(operator.device)
    products = torch.stack([counted(vector) for vector in basis.T], dim=1)
    # The Rayleigh quotient is at least as close as ARPACK's value, and belongs to the vector as it is.
    values = (basis * products).sum(0)
    residuals = torch.linalg.vector_norm(products - basis * values, dim=0)
    order = values.argsort(descending=end != "smallest")
    signs = basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
    return Eigenpairs(
        values=values[order],
        vectors=(basis * signs)[:, order],
        residuals=residuals[order],
        num_products=num_products,
    )


def _search(
    operator: LinearOperator, k: int, end: End, start: np.ndarray, tolerance: float, max_products: int
) -> np.ndarray:
    """The vectors, (P, k), in any order."""
    size = len(start)
    basis = min(size, max(2 * k + 1, 20))
    restarts = max(1, (max_products - basis) // (basis - k))
    try:
        found = eigsh(operator, k, which=_WHICH[end], v0=start, ncv=basis, maxiter=restarts, tol=tolerance)
    except ArpackNoConvergence as error:
        raise RuntimeError(
            f"all {k} eigenvalues must converge, but after about {max_products} products {len(error.eigenvalues)} "
            "had. Allow more products (max_products), a larger tolerance, or take a smaller k."
        ) from error
    except ArpackError as error:
        raise RuntimeError(
            f"Lanczos found no way from its first vector, which it does not where the matrix is 0: {error} Look "
            "whether the loss depends on these parameters, and whether it bends at all."
        ) from error
    vectors: np.ndarray = np.ascontiguousarray(found[1])
    return vectors
