"""How near is a layer's Hessian to the Kronecker product of two small matrices?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dni.hessians.operator import SymmetricOperator
from dni.hessians.trace import signs
from dni.structure.keyed import Keyed

__all__ = ["Decoupling", "estimate_decoupling", "measure_decoupling"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoupling:
    """How near two symmetric matrices are."""

    cosine: float
    """⟨H, K⟩ / (‖H‖ ‖K‖), of Frobenius norms: 1 if they differ by a factor only; 0 if one of them is 0."""
    relative_error: float
    """‖H - K‖ / ‖H‖; nan if H is 0."""
    cosine_error: float
    """Standard error by the jackknife; 0 where the cosine is exact."""
    relative_error_error: float
    """Standard error by the jackknife; 0 where it is exact."""


def measure_decoupling(
    hessian: SymmetricOperator,
    product: SymmetricOperator,
    *,
    progress: Callable[[int, int], object] | None = None,
) -> Decoupling:
    """Compare a layer's Hessian with its Kronecker product exactly, by P products with each.

    Source: Wu et al. 2020 (arXiv 2010.04261), decoupling conjecture.

    Args:
        hessian: H, (P, P), of the layer's weight.
        product: K, (P, P); as `KroneckerFactors.operator()`.
        progress: told how many products are done, of how many.

    Raises:
        ValueError: they are not of the same size.
    """
    size = hessian.size
    units = (torch.zeros(size, dtype=hessian.dtype).index_fill_(0, torch.tensor(i), 1.0) for i in range(size))
    sums = _sums(hessian, product, units, size, progress)
    cosine, error = _ratios(sums.sum(0))
    return Decoupling(cosine=float(cosine), relative_error=float(error), cosine_error=0.0, relative_error_error=0.0)


def estimate_decoupling(
    hessian: SymmetricOperator,
    product: SymmetricOperator,
    *,
    num_draws: int,
    keyed: Keyed,
    progress: Callable[[int, int], object] | None = None,
) -> Decoupling:
    """Compare them by products with random signs v, as ⟨H, K⟩ = E[(H v) · (K v)].

    Args:
        hessian: H, (P, P).
        product: K, (P, P).
        num_draws: products with each; at least 2, for the errors.
        keyed: for the signs, as for `estimate_trace`.
        progress: told how many draws are done, of how many.

    Raises:
        ValueError: they are not of the same size, or there are fewer than two draws.
    """
    if num_draws < 2:
        raise ValueError(f"an error bar needs at least 2 draws, got num_draws = {num_draws}.")
    drawn = (signs(hessian, keyed, index) for index in range(num_draws))
    sums = _sums(hessian, product, drawn, num_draws, progress)
    cosine, error = _ratios(sums.sum(0))
    without = torch.stack(_ratios(sums.sum(0) - sums))
    spread = (without.var(1, correction=0) * (num_draws - 1)).sqrt().tolist()
    return Decoupling(
        cosine=float(cosine), relative_error=float(error), cosine_error=spread[0], relative_error_error=spread[1]
    )


def _sums(
    hessian: SymmetricOperator,
    product: SymmetricOperator,
    vectors: Iterable[Tensor],
    num_vectors: int,
    progress: Callable[[int, int], object] | None,
) -> Tensor:
    """|Hv|², |Kv|², Hv·Kv and |Hv - Kv|² of each vector, (vectors, 4), float64."""
    if hessian.size != product.size:
        raise ValueError(
            f"both must be of the same weight, got {hessian.size} and {product.size} parameters. Take the Hessian of "
            "the layer's weight alone, as parameters=['layer.weight']."
        )
    rows = []
    for index, v in enumerate(vectors):
        h, k = hessian(v).double(), product(v).double()
        rows.append(torch.stack([h @ h, k @ k, h @ k, (h - k) @ (h - k)]))
        if progress is not None:
            progress(index + 1, num_vectors)
    return torch.stack(rows).cpu()


def _ratios(sums: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine and the relative error of sums, (..., 4)."""
    hh, kk, hk, dd = sums.unbind(-1)
    size = (hh * kk).sqrt()
    return torch.where(size > 0, hk / size, torch.zeros_like(size)), (dd / hh).sqrt()
