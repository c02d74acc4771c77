"""Are the pairs found those of the matrix written down?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni import Objective, SymmetricOperator, eigenpairs, gauss_newton_operator, hessian_operator
from tests.dni.hessians.networks import batches, full_hessian, perceptron


def _of(matrix: Tensor) -> SymmetricOperator:
    return SymmetricOperator(
        size=len(matrix), dtype=matrix.dtype, device=matrix.device, product=lambda vector: matrix @ vector
    )


@pytest.mark.parametrize("end", ["largest", "smallest", "both"])
def test_eigenpairs_are_those_of_the_full_hessian(end: str, generator: torch.Generator) -> None:
    net, data = perceptron().double(), batches(5, sizes=(20, 17))
    names = [name for name, _ in net.named_parameters()]
    values, vectors = torch.linalg.eigh(full_hessian(net, nn.CrossEntropyLoss(), data, names))
    found = eigenpairs(
        hessian_operator(Objective(net, nn.CrossEntropyLoss(), data)),
        5,
        generator=generator,
        end=end,  # type: ignore[arg-type]
    )
    places = {"largest": [-1, -2, -3, -4, -5], "smallest": [0, 1, 2, 3, 4], "both": [-1, -2, -3, 1, 0]}[end]
    torch.testing.assert_close(found.values, values[places], rtol=0, atol=1e-8)
    assert ((found.vectors * vectors[:, places]).sum(0).abs() - 1).abs().max() < 1e-8
    assert found.residuals.max() < 1e-8 and found.num_products < 400


def test_the_same_generator_gives_the_same_bits_with_signs_that_do_not_depend_on_it() -> None:
    operator = gauss_newton_operator(Objective(perceptron(), nn.CrossEntropyLoss(), batches(5), parameters=["0"]))
    first, again, other = (eigenpairs(operator, 3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.vectors, again.vectors) and torch.equal(first.values, again.values)
    torch.testing.assert_close(other.vectors, first.vectors, rtol=0, atol=1e-8)


def test_residuals_tell_of_a_matrix_that_is_not_symmetric(generator: torch.Generator) -> None:
    matrix = torch.diag(torch.arange(1.0, 31.0, dtype=torch.float64))
    matrix[0, 1] = 5.0
    matrix[-1, 0] = 9.0
    assert eigenpairs(_of(matrix), 3, generator=generator).residuals.max() > 1e-2


def test_what_cannot_be_found_is_refused_with_what_to_do(generator: torch.Generator) -> None:
    matrix = torch.diag(torch.linspace(1.0, 1.001, 200, dtype=torch.float64))
    with pytest.raises(ValueError, match="k must be from 1 to 199, one less than the parameters, got 200"):
        eigenpairs(_of(matrix), 200, generator=generator)
    with pytest.raises(RuntimeError, match=r"after about 30 products 0 had. Allow more products"):
        eigenpairs(_of(matrix), 3, generator=generator, max_products=30)
    with pytest.raises(RuntimeError, match="where the matrix is 0"):
        eigenpairs(_of(torch.zeros(30, 30, dtype=torch.float64)), 3, generator=generator)
