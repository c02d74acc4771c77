"""What are the best rates of which none is below zero?

The optimiser leaves negative rates out after it has solved for all of them. Where subsets interact strongly the others
are then too large, since they were to make up for those. Here the same model is minimised over rates from zero on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dni import Summary, cubic_rates

__all__ = ["bounded_rates"]

_NEARLY = 1e-9
"""Slopes down to this share of the largest |g_s| count as zero."""


def bounded_rates(summary: Summary, *, strength: float) -> Tensor:
    """A minimum over eta >= 0 of -g' eta + eta' H eta / 2 + strength / 6 ||D eta||^3.

    By active sets (Lawson and Hanson 1974): subsets enter one at a time, the steepest first; the model is solved for
    those that are in, and one whose rate would fall below zero leaves again on the way there. Of a model that is
    convex it is the minimum; of another, no better point is next to it.

    Args:
        summary: of S subsets, their directions scaled at will.
        strength: of the third order.

    Returns:
        (S,), none negative.

    Raises:
        NoRatesError: as `cubic_rates`, of the subsets that are in.
    """
    size = summary.hessian.diagonal().abs().sqrt()
    size = torch.where(size > 0, size, 1.0)
    eta = torch.zeros_like(summary.gradient)
    inside: list[int] = []
    for _ in range(3 * len(eta)):
        slopes = _slopes(summary, eta, strength) / size
        slopes[inside] = 0
        steepest = int(slopes.argmin())
        if float(slopes[steepest]) >= -_NEARLY * float((summary.gradient / size).abs().max()):
            break
        inside.append(steepest)
        eta, inside = _solved(summary, eta, inside, strength)
    return eta


def _slopes(summary: Summary, eta: Tensor, strength: float) -> Tensor:
    """Of the model, at eta."""
    scale = summary.third.abs().pow(1 / 3)
    length = torch.linalg.vector_norm(scale * eta)
    slopes: Tensor = summary.hessian @ eta - summary.gradient + strength / 2 * length * scale.square() * eta
    return slopes


def _solved(summary: Summary, eta: Tensor, inside: list[int], strength: float) -> tuple[Tensor, list[int]]:
    """From eta towards the solution for those inside, as far as none falls below zero; who does, leaves."""
    while inside:
        aim = torch.zeros_like(eta)
        aim[inside] = cubic_rates(summary.of(inside), strength=strength)
        falling = [index for index in inside if float(aim[index]) <= 0]
        if not falling:
            return aim, inside
        share, leaving = min((float(eta[index] / (eta[index] - aim[index])), index) for index in falling)
        eta = torch.lerp(eta, aim, share)
        eta[leaving] = 0
        inside = [index for index in inside if index != leaving]
    return torch.zeros_like(eta), inside
