"""Does the density have the moments of the eigenvalues?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni import Objective, SymmetricOperator, estimate_density, estimate_trace, hessian_operator
from tests.dni.hessians.networks import batches, perceptron


def _keyed(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(name.encode(), "big") % 2**62)


def _of(matrix: Tensor) -> SymmetricOperator:
    return SymmetricOperator(
        size=len(matrix), dtype=matrix.dtype, device=matrix.device, product=lambda vector: matrix @ vector
    )


def test_quadrature_has_the_moments_that_the_drawn_vectors_have_and_those_of_the_spectrum_within_errors() -> None:
    operator = hessian_operator(Objective(perceptron(), nn.CrossEntropyLoss(), batches(5), parameters=["0"]))
    matrix = operator.dense()
    density = estimate_density(_of(matrix), num_draws=30, num_steps=6, keyed=_keyed)
    assert density.points.shape == density.weights.shape == (30, 6)
    trace = estimate_trace(_of(matrix), num_draws=30, keyed=_keyed)
    torch.testing.assert_close((density.weights * density.points).sum(1), trace.draws / 24)
    for power in range(1, 12):
        mean, error = density.moment(power)
        truth = float(torch.linalg.eigvalsh(matrix).pow(power).mean())
        assert abs(mean - truth) <= 4 * error
    torch.testing.assert_close(density.weights.sum(1), torch.ones(30, dtype=torch.float64))


def test_a_spectrum_of_few_values_is_found_exactly_and_lanczos_ends_early() -> None:
    q = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))[0]
    matrix = q @ torch.diag(torch.tensor([5.0] * 4 + [0.0] * 30 + [-1.0] * 6, dtype=torch.float64)) @ q.T
    density = estimate_density(_of(matrix), num_draws=40, num_steps=10, keyed=_keyed)
    found = [float(density.weights[(density.points - value).abs() < 1e-6].sum()) / 40 for value in (5.0, 0.0, -1.0)]
    assert sum(found) == pytest.approx(1.0)
    assert found == pytest.approx([0.1, 0.75, 0.15], abs=0.03)
    assert (density.weights[:, 3:] == 0).all()


def test_the_density_on_a_grid_integrates_to_one() -> None:
    density = estimate_density(
        _of(torch.linspace(-1, 3, 30, dtype=torch.float64).diag()), num_draws=3, num_steps=9, keyed=_keyed
    )
    grid = torch.linspace(-3, 5, 801, dtype=torch.float64)
    assert float(torch.trapezoid(density.at(grid, width=0.1), grid)) == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(ValueError, match="must be positive, got 0"):
        density.at(grid, width=0)


def test_a_matrix_smaller_than_the_steps_is_taken_whole_and_no_draws_are_refused() -> None:
    matrix = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64) + torch.diag(torch.tensor([0.0, 1.0]))
    density = estimate_density(_of(matrix), num_draws=1, num_steps=50, keyed=_keyed)
    torch.testing.assert_close(density.points[0], torch.linalg.eigvalsh(matrix))
    assert density.moment(1)[1] != density.moment(1)[1]
    with pytest.raises(ValueError, match="got num_draws = 0, num_steps = 5"):
        estimate_density(_of(matrix), num_draws=0, num_steps=5, keyed=_keyed)
