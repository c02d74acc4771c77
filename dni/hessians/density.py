"""How are the eigenvalues of a Hessian spread, when there are too many to compute?

Letters: P parameters, D draws, S steps of Lanczos.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from dni.hessians.operator import SymmetricOperator
from dni.hessians.trace import signs
from dni.structure.keyed import Keyed

__all__ = ["SpectralDensity", "estimate_density"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectralDensity:
    """A measure near that of the eigenvalues, each of weight 1 / P: points and their weights, for each draw."""

    points: Tensor
    """(D, S), float64, upwards. Where Lanczos ended early, points of weight 0 fill the row."""
    weights: Tensor
    """(D, S); they add up to 1 in each row."""

    def moment(self, power: int) -> tuple[float, float]:
        """The mean of λ^power over the eigenvalues, and its standard error (nan for one draw). Of power 1: tr A / P."""
        draws = (self.weights * self.points**power).sum(1)
        return float(draws.mean()), float(draws.std(correction=1)) / len(draws) ** 0.5 if len(draws) > 1 else float(
            "nan"
        )

    def at(self, grid: Tensor, *, width: float) -> Tensor:
        """The density, each point spread to a Gaussian; its integral is 1.

        Args:
            grid: values of λ, (G,).
            width: standard deviation of the Gaussian; 1e-2 of the range of eigenvalues is usual.

        Returns:
            (G,), float64.

        Raises:
            ValueError: the width is not positive.
        """
        if width <= 0:
            raise ValueError(f"the width of a density must be positive, got {width}. Take 1e-2 of its range.")
        gaps = (grid.to(self.points)[:, None, None] - self.points) / width
        bumps = torch.exp(-gaps.square() / 2) / (width * (2 * pi) ** 0.5)
        density: Tensor = (bumps * self.weights).sum(2).mean(1)
        return density


def estimate_density(
    operator: SymmetricOperator,
    *,
    num_draws: int,
    num_steps: int,
    keyed: Keyed,
    progress: Callable[[int, int], object] | None = None,
) -> SpectralDensity:
    """The spectral density by stochastic Lanczos quadrature.

    From a random v, S steps of Lanczos give a tridiagonal T; its eigenvalues are points, the squared first entries of
    its eigenvectors weights. They integrate every polynomial of degree below 2S as the eigenvalues do, weighted by v's
    share in each; over draws the shares are 1 / P in the mean. Kept orthogonal by projecting twice, in (S, P) numbers.
    Source: Ubaru, Chen and Saad 2017; for networks, Ghorbani et al. 2019 (arXiv 1901.10159). Differs: random signs in
    place of Gaussian v, so that the first moment has Hutchinson's smaller variance.

    Args:
        operator: A, (P, P).
        num_draws: D.
        num_steps: S, products for each draw; more than P are not taken.
        keyed: for the signs, as for `estimate_trace`.
        progress: told how many products are done, of at most how many.

    Raises:
        ValueError: there are no draws or no steps.
    """
    if num_draws < 1 or num_steps < 1:
        raise ValueError(f"a density needs draws and steps, got num_draws = {num_draws}, num_steps = {num_steps}.")
    num_steps = min(num_steps, operator.size)
    points = torch.zeros(num_draws, num_steps, dtype=torch.float64)
    weights = torch.zeros_like(points)
    for draw in range(num_draws):

        def step_done(steps: int, before: int = draw * num_steps) -> None:
            if progress is not None:
                progress(before + steps, num_draws * num_steps)

        tridiagonal = _tridiagonal(operator, signs(operator, keyed, draw), num_steps, step_done)
        values, vectors = torch.linalg.eigh(tridiagonal)
        points[draw, : len(values)], weights[draw, : len(values)] = values, vectors[0].square()
        points[draw, len(values) :] = values[-1]
    return SpectralDensity(points=points, weights=weights)


def _tridiagonal(
    operator: SymmetricOperator, start: Tensor, num_steps: int, step_done: Callable[[int], object]
) -> Tensor:
    """T, (S, S), float64, on the CPU; smaller if the vectors so far span a space that A does not leave."""
    basis = torch.zeros(num_steps, operator.size, dtype=operator.dtype, device=operator.device)
    found = torch.zeros(num_steps, num_steps, dtype=torch.float64)
    vector, largest = start / torch.linalg.vector_norm(start), 0.0
    step = 0
    while True:
        basis[step] = vector
        product = operator(vector)
        step_done(step + 1)
        largest = max(largest, float(torch.linalg.vector_norm(product)))
        found[step, step] = float(vector @ product)
        for _ in range(2):
            product = product - basis[: step + 1].T @ (basis[: step + 1] @ product)
        rest = float(torch.linalg.vector_norm(product))
        if step + 1 == num_steps or rest <= 100 * torch.finfo(operator.dtype).eps * largest:
            return found[: step + 1, : step + 1]
        found[step, step + 1] = found[step + 1, step] = rest
        vector = product / rest
        step += 1
