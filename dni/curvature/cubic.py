"""Where is the minimum of a quadratic model with a cubic penalty?

    m(eta) = -g' eta + eta' H eta / 2 + strength / 6 ||D eta||^3,    D = diag(d), d >= 0

Its global minimum is the solution of (H + c r D^2) eta = g, r = ||D eta||, c = strength / 2, for which that matrix is
positive semidefinite: the one with the largest r. Where the matrix is positive definite, ||D eta(r)|| decreases in r,
so there is one root, and bisection finds it. A Cholesky factorisation says whether an r is among these; its rounding
does not depend on how rows and columns are scaled, so neither does the step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["NoRatesError", "minimise_cubic"]

_SMALLEST, _LARGEST, _FACTOR = 1e-100, 1e100, 8.0
"""Range of r, and how fast the search for a bracket goes through it."""
_EXACT = 1e-14
"""Relative distance from r at which ||D eta|| is r to rounding."""
_UNDECIDED = 1e-8
"""Cosine below which neither side of the bottom eigenvector is better than the other."""


class NoRatesError(ValueError):
    """A summary asks for no rates: its model has no minimum, or more than one stationary point."""


def minimise_cubic(hessian: Tensor, gradient: Tensor, scale: Tensor, *, strength: float) -> Tensor:
    """The global minimum eta of m.

    Source: Wolinski 2023 (arXiv 2312.03885), method 1: eta = (H + lambda_int / 2 ||D eta|| D^2)^-1 g with the largest
    ||D eta||; solvability as of Nesterov and Polyak 2006. Differs: entries of D that are zero need no case of their
    own, and the hard case, in which g has no part along the eigenvector that limits r, has its solution, by going
    along that eigenvector as far as r says; of its two sides, which are as good, the one whose largest entry is
    positive.

    Args:
        hessian: H, (S, S), symmetric, of any definiteness, float64.
        gradient: g, (S,).
        scale: d, (S,), not negative.
        strength: lambda_int, more than 0.

    Returns:
        (S,); 0 where H, g and d are all zero.

    Raises:
        ValueError: the strength is not above 0.
        NoRatesError: H is not positive definite where d is zero.
    """
    if not strength > 0:
        raise ValueError(f"the strength of cubic regularisation must be above 0, got {strength}.")
    live = (hessian != 0).any(1) | (gradient != 0) | (scale != 0)
    eta = torch.zeros_like(gradient)
    if bool(live.any()):
        eta[live] = _Model(hessian[live][:, live], gradient[live], scale[live], strength / 2).minimum()
    return eta


class _Model:
    """m, as a function of r."""

    def __init__(self, hessian: Tensor, gradient: Tensor, scale: Tensor, c: float) -> None:
        self.hessian, self.gradient, self.scale, self.c = hessian, gradient, scale, c

    def matrix(self, r: float) -> Tensor:
        """H + c r D^2."""
        return self.hessian + torch.diag(self.c * r * self.scale.square())

    def solution(self, r: float) -> Tensor | None:
        """eta(r); None where the matrix is not positive definite."""
        factor, info = torch.linalg.cholesky_ex(self.matrix(r))
        return None if int(info) else torch.cholesky_solve(self.gradient[:, None], factor)[:, 0]

    def length(self, eta: Tensor) -> float:
        """||D eta||."""
        return float(torch.linalg.vector_norm(self.scale * eta))

    def is_beyond(self, r: float) -> bool:
        """Whether r is at or above the root."""
        eta = self.solution(r)
        return eta is not None and self.length(eta) <= r

    def minimum(self) -> Tensor:
        newton = self.solution(0.0)
        if newton is not None and self.length(newton) == 0:
            return newton  # nothing of third order on its way
        high = 1.0
        while not self.is_beyond(high):
            high *= _FACTOR
            if high > _LARGEST:
                raise NoRatesError(
                    "the cubic model has no minimum: its Hessian is not positive definite along subsets whose third "
                    f"derivative is zero ({int((self.scale == 0).sum())} of {len(self.scale)}). Damp or average it, "
                    "or merge those subsets with others."
                )
        low = high / _FACTOR
        while self.is_beyond(low):
            high, low = low, low / _FACTOR
            if low < _SMALLEST:
                break  # the root is 0
        while low < (middle := math.sqrt(low * high)) < high:
            low, high = (low, middle) if self.is_beyond(middle) else (middle, high)
        eta = self.solution(high)
        assert eta is not None
        short = high - self.length(eta)
        return eta if short <= _EXACT * high or low < _SMALLEST else self._along_bottom(eta, high)

    def _along_bottom(self, eta: Tensor, r: float) -> Tensor:
        """The hard case, or all but: eta + tau v with ||D(eta + tau v)|| = r, v of the eigenvalue that is 0."""
        # Not the diagonal of the matrix itself: where H and the rest all but cancel, that would hide what is small.
        size = (self.hessian.diagonal().abs() + self.c * r * self.scale.square()).sqrt()
        v: Tensor = torch.linalg.eigh(self.matrix(r) / size.outer(size))[1][:, 0] / size
        moved = self.scale * v
        v, moved = (v, moved) if bool(moved[moved.abs().argmax()] > 0) else (-v, -moved)
        a, b = float(moved.square().sum()), float((self.scale * eta) @ moved)
        left = r**2 - self.length(eta) ** 2
        root = math.sqrt(b**2 + a * left)
        if abs(b) <= _UNDECIDED * math.sqrt(a) * r or b > 0:
            return eta + v * (left / (b + root))
        return eta + v * (left / (b - root))
