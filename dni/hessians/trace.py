"""How much does a loss bend over all directions together, and by each parameter?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dni.hessians.operator import SymmetricOperator
from dni.structure.keyed import Keyed

__all__ = ["DiagonalEstimate", "TraceEstimate", "estimate_diagonal", "estimate_trace", "signs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEstimate:
    """A trace, and how sure that is."""

    value: float
    standard_error: float
    """Of the mean over the draws."""
    draws: Tensor
    """vᵀ A v of each, (draws,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagonalEstimate:
    """A diagonal, and how sure each entry is."""

    value: Tensor
    """(P,)."""
    standard_error: Tensor
    """(P,)."""


def estimate_trace(
    operator: SymmetricOperator,
    *,
    num_draws: int,
    keyed: Keyed,
    progress: Callable[[int, int], object] | None = None,
) -> TraceEstimate:
    """tr A = E[vᵀ A v] over random signs v; exact, without an error, for a diagonal A.

    The variance of a draw is 2 (‖A‖²_F - ‖diag A‖²). Source: Hutchinson 1989.

    Args:
        operator: A, (P, P).
        num_draws: products taken; at least 2, for the error.
        keyed: for the signs; draw i is that of the name "hessian/i", so more draws begin with the same ones.
        progress: told how many draws are done, of how many.

    Raises:
        ValueError: there are fewer than two draws.
    """
    draws = torch.stack([(v * product).sum() for v, product in _drawn(operator, num_draws, keyed, progress)]).double()
    return TraceEstimate(value=float(draws.mean()), standard_error=float(draws.std()) / num_draws**0.5, draws=draws)


def estimate_diagonal(
    operator: SymmetricOperator,
    *,
    num_draws: int,
    keyed: Keyed,
    progress: Callable[[int, int], object] | None = None,
) -> DiagonalEstimate:
    """diag A = E[v ∘ A v] over random signs v. Sums over the entries of a tensor are its part of the trace.

    The variance of entry i is the sum of A_ij² over j ≠ i. Source: Bekas, Kokiopoulou and Saad 2007.

    Args:
        operator: A, (P, P).
        num_draws: as for `estimate_trace`, whose draws these are.
        keyed: as for `estimate_trace`.
        progress: told how many draws are done, of how many.

    Raises:
        ValueError: there are fewer than two draws.
    """
    mean = torch.zeros(operator.size, dtype=torch.float64, device=operator.device)
    squares = torch.zeros_like(mean)
    for count, (v, product) in enumerate(_drawn(operator, num_draws, keyed, progress), start=1):
        # Welford's update: a difference of sums of squares would lose small errors beside large entries.
        gap = (v * product).double() - mean
        mean += gap / count
        squares += gap.square() * ((count - 1) / count)
    return DiagonalEstimate(value=mean, standard_error=(squares / (num_draws - 1) / num_draws).sqrt())


def signs(operator: SymmetricOperator, keyed: Keyed, index: int) -> Tensor:
    """A vector of random signs, (P,); the same on every device."""
    drawn = torch.randint(2, (operator.size,), generator=keyed(f"hessian/{index}"))
    return (2 * drawn - 1).to(device=operator.device, dtype=operator.dtype)


def _drawn(
    operator: SymmetricOperator, num_draws: int, keyed: Keyed, progress: Callable[[int, int], object] | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """v and A v."""
    if num_draws < 2:
        raise ValueError(f"an error bar needs at least 2 draws, got num_draws = {num_draws}.")
    for index in range(num_draws):
        v = signs(operator, keyed, index)
        yield v, operator(v)
        if progress is not None:
            progress(index + 1, num_draws)
