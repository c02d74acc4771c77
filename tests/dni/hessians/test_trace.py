"""Are the estimates right in the mean, and by as much as they say?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni import Objective, SymmetricOperator, estimate_diagonal, estimate_trace, hessian_operator
from tests.dni.hessians.networks import batches, full_hessian, perceptron


def _keyed(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(name.encode(), "big") % 2**62)


def _of(matrix: Tensor) -> SymmetricOperator:
    return SymmetricOperator(
        size=len(matrix), dtype=matrix.dtype, device=matrix.device, product=lambda vector: matrix @ vector
    )


def test_trace_and_diagonal_of_a_hessian_are_within_their_error_bars() -> None:
    net, data = perceptron().double(), batches(5)
    names = [name for name, _ in net.named_parameters()]
    expected = full_hessian(net, nn.CrossEntropyLoss(), data, names)
    operator = hessian_operator(Objective(net, nn.CrossEntropyLoss(), data))
    trace = estimate_trace(operator, num_draws=50, keyed=_keyed)
    assert abs(trace.value - float(expected.trace())) < 4 * trace.standard_error
    off = expected - expected.diag().diag()
    assert trace.standard_error == pytest.approx((2 * float(off.square().sum()) / 50) ** 0.5, rel=0.4)
    diagonal = estimate_diagonal(operator, num_draws=50, keyed=_keyed)
    assert ((diagonal.value - expected.diag()).abs() <= 5 * diagonal.standard_error + 1e-12).all()
    assert float(diagonal.value.sum()) == pytest.approx(trace.value)
    bars = (off.square().sum(1) / 50).sqrt()
    torch.testing.assert_close(diagonal.standard_error, bars, rtol=0.5, atol=1e-12)


def test_a_diagonal_matrix_is_estimated_exactly_and_more_draws_begin_with_the_same() -> None:
    values = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    trace = estimate_trace(_of(values.diag()), num_draws=2, keyed=_keyed)
    assert (trace.value, trace.standard_error) == (2.5, 0.0)
    found = estimate_diagonal(_of(values.diag()), num_draws=2, keyed=_keyed)
    assert torch.equal(found.value, values) and not found.standard_error.any()
    matrix = _of(torch.ones(3, 3, dtype=torch.float64))
    few, many = (estimate_trace(matrix, num_draws=count, keyed=_keyed).draws for count in (3, 6))
    assert torch.equal(many[:3], few)


def test_one_draw_has_no_error_bar() -> None:
    with pytest.raises(ValueError, match="an error bar needs at least 2 draws, got num_draws = 1"):
        estimate_trace(_of(torch.eye(3)), num_draws=1, keyed=_keyed)
    with pytest.raises(ValueError, match="an error bar needs at least 2 draws, got num_draws = 1"):
        estimate_diagonal(_of(torch.eye(3)), num_draws=1, keyed=_keyed)
