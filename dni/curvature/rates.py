"""Which step size for each subset does a summary ask for?

Each rule gives eta, (S,), float64, for a step to theta - sum_s eta_s u_s. A subset whose u_s is multiplied by c gets an
eta_s divided by c: the step is the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dni.curvature.cubic import NoRatesError, minimise_cubic
from dni.curvature.summaries import Summary

__all__ = ["cubic_rates", "diagonal_rates", "newton_rates", "pseudo_inverse_rates"]

_SINGULAR = 1e-12
"""Smallest eigenvalue, as a share of the largest, of a Hessian that is solved as it is, its diagonal scaled to 1."""


def newton_rates(summary: Summary, *, damping: float = 0.0) -> Tensor:
    """eta = (H + damping |diag H|)^-1 g: the stationary point of the quadratic model.

    Of one subset it is the exact step of a line search (Cauchy), of every number by itself Newton's. Where H is not
    positive definite it is no minimum: see `cubic_rates`.

    Source: Wolinski 2023 (arXiv 2312.03885), eta* = H^-1 g. Differs: damping is relative to |H_ss| (Marquardt 1963)
    instead of a multiple of I, so that steps do not depend on the size of directions.

    Args:
        damping: share of |H_ss| added to each H_ss.

    Raises:
        ValueError: the damping is negative.
        NoRatesError: the matrix is singular; the message names the subsets that make it so.
    """
    if not damping >= 0 or not math.isfinite(damping):
        raise ValueError(f"damping must be 0 or more, got {damping}.")
    matrix = summary.hessian + damping * torch.diag(summary.hessian.diagonal().abs())
    size = _sizes(matrix)
    scaled = matrix / size.outer(size)
    values, vectors = torch.linalg.eigh(scaled)
    if bool(values.abs().min() <= _SINGULAR * values.abs().max()):
        v = vectors[:, int(values.abs().argmin())].abs()
        names = [name for name, part in zip(summary.names, v.tolist(), strict=True) if part > 0.1 * float(v.max())]
        still = [name for name, row in zip(summary.names, summary.hessian, strict=True) if not bool(row.any())]
        raise NoRatesError(
            f"the Hessian summary must be invertible, but the loss has no curvature along {', '.join(still or names)}"
            f"{', whose direction may be zero' if still else ' together'}. Leave them out (`Summary.of`), or use "
            "pseudo_inverse_rates or cubic_rates."
        )
    rates: Tensor = torch.linalg.solve(scaled, summary.gradient / size) / size
    return rates


def pseudo_inverse_rates(summary: Summary, *, cutoff: float = 1e-8) -> Tensor:
    """eta = H^+ g: nothing along directions without curvature, such as subsets that stand still.

    Args:
        cutoff: eigenvalues up to this share of the largest count as zero, of the Hessian with its diagonal scaled to 1.

    Raises:
        ValueError: the cutoff is not in [0, 1).
    """
    if not 0 <= cutoff < 1:
        raise ValueError(f"the cutoff is a share in [0, 1) of the largest eigenvalue, got {cutoff}.")
    size = _sizes(summary.hessian)
    values, vectors = torch.linalg.eigh(summary.hessian / size.outer(size))
    kept = values.abs() > cutoff * values.abs().max()
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    rates: Tensor = vectors @ (inverse * (vectors.T @ (summary.gradient / size))) / size
    return rates


def diagonal_rates(summary: Summary) -> Tensor:
    """eta_s = g_s / H_ss: each subset by itself, without what they do to each other.

    Raises:
        NoRatesError: the curvature along a subset is zero.
    """
    diagonal = summary.hessian.diagonal()
    if bool((diagonal == 0).any()):
        flat = [summary.names[index] for index in (diagonal == 0).nonzero().flatten().tolist()]
        raise NoRatesError(
            f"the loss must have curvature along each subset, but has none along {', '.join(flat)}; its direction may "
            "be zero. Leave it out (`Summary.of`), or use pseudo_inverse_rates or cubic_rates."
        )
    return summary.gradient / diagonal


def cubic_rates(summary: Summary, *, strength: float = 1.0) -> Tensor:
    """eta = (H + strength / 2 ||D eta|| D^2)^-1 g with D_ss = |D_sss|^(1/3): the minimum of a model that has one.

    Source: Wolinski 2023 (arXiv 2312.03885), anisotropic Nesterov cubic regularisation, method 1, with strength =
    lambda_int. See `dni.curvature.cubic`.

    Args:
        strength: of the third order. At the beginning of training, with an indefinite Hessian, 1 can be too little.

    Raises:
        ValueError: the strength is not above 0.
        NoRatesError: the Hessian is not positive definite along subsets without a third derivative.
    """
    scale = summary.third.abs().pow(1 / 3)
    return minimise_cubic(summary.hessian, summary.gradient, scale, strength=strength)


def _sizes(matrix: Tensor) -> Tensor:
    """sqrt |H_ss|: what a subset's direction is measured in; 1 where that is zero."""
    size = matrix.diagonal().abs().sqrt()
    return torch.where(size > 0, size, 1.0)
