"""Is the minimum of the cubic model found in each of its cases?

The minimum is known by what makes it one: (H + c r D^2) eta = g with r = ||D eta||, and that matrix is positive
semidefinite (Nesterov and Polyak 2006, theorem 10).
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dni import NoRatesError
from dni.curvature.cubic import minimise_cubic


def _tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _assert_minimum(h: Tensor, g: Tensor, d: Tensor, eta: Tensor, strength: float) -> None:
    r = torch.linalg.vector_norm(d * eta)
    matrix = h + strength / 2 * r * torch.diag(d**2)
    size = 1 + (h.abs().max() + strength / 2 * r * (d**2).max()) * eta.abs().max()
    assert float((matrix @ eta - g).abs().max() / size) < 1e-9
    assert float(torch.linalg.eigvalsh(matrix)[0] / (1 + matrix.abs().max())) > -1e-9


def _value(h: Tensor, g: Tensor, d: Tensor, eta: Tensor, strength: float) -> Tensor:
    return -g @ eta + eta @ h @ eta / 2 + strength / 6 * torch.linalg.vector_norm(d * eta) ** 3


def _mixed(values: Tensor) -> Tensor:
    """A matrix with these eigenvalues, not diagonal."""
    q, _ = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64))
    return q @ torch.diag(values) @ q.T


@pytest.mark.parametrize("values", [(1, 2, 5), (-3, 0.1, 4), (-3, -2, -1), (0, 1, 2), (-1e-9, 1e-9, 1e3)])
def test_minimum_of_a_definite_an_indefinite_and_a_singular_model(values: tuple[float, ...]) -> None:
    h, g, d = _mixed(_tensor(*values)), _tensor(1, -2, 3), _tensor(0.5, 2, 1)
    for strength in (0.01, 1.0, 100.0):
        eta = minimise_cubic(h, g, d, strength=strength)
        _assert_minimum(h, g, d, eta, strength)
        trials = eta + torch.randn(200, 3, dtype=torch.float64) * 10 ** torch.empty(200, 1).uniform_(-3, 2).double()
        assert all(_value(h, g, d, eta, strength) <= _value(h, g, d, own, strength) + 1e-12 for own in trials)


def test_hard_case_goes_along_the_bottom_eigenvector() -> None:
    """g is orthogonal to it: (H + c r I)^+ g is too short, and either way along it is a minimum."""
    h, g, d = torch.diag(_tensor(-2, 1)), _tensor(0, 1), _tensor(1, 1)
    eta = minimise_cubic(h, g, d, strength=1.0)
    # c r = 2: r = 4, eta_2 = 1 / 3, and eta_1 what is left of r
    torch.testing.assert_close(eta, _tensor(math.sqrt(16 - 1 / 9), 1 / 3), rtol=1e-10, atol=0)
    _assert_minimum(h, g, d, eta, 1.0)


def test_model_without_a_gradient_goes_down_its_steepest_curve() -> None:
    h = torch.diag(_tensor(-2, 1))
    eta = minimise_cubic(h, _tensor(0, 0), _tensor(2, 1), strength=1.0)  # c r d^2 = 2
    torch.testing.assert_close(eta, _tensor(0.5, 0), rtol=1e-10, atol=1e-12)
    assert minimise_cubic(h.abs(), _tensor(0, 0), _tensor(2, 1), strength=1.0).tolist() == [0, 0]


@pytest.mark.parametrize("part", [1e-3, 1e-8, 1e-12, 1e-15, -1e-9])
def test_all_but_hard_case_is_solved_as_well(part: float) -> None:
    h, d = torch.diag(_tensor(-2, 1, 3)), _tensor(1, 1, 2)
    g = _tensor(part, 1, -1)
    eta = minimise_cubic(h, g, d, strength=1.0)
    _assert_minimum(h, g, d, eta, 1.0)
    assert part == 1e-15 or eta[0] * part > 0


def test_rescaled_subsets_take_the_same_step_in_the_hard_case_too() -> None:
    h, d = _mixed(_tensor(-2, 1, 3)), _tensor(1, 1, 1)
    vectors = torch.linalg.eigh(h)[1]
    scale = _tensor(1e-4, 3, 1e5)
    for g in (vectors[:, 1] + vectors[:, 2], _tensor(1, 2, 3)):
        one = minimise_cubic(h, g, d, strength=1.0)
        other = minimise_cubic(h * scale.outer(scale), g * scale, d * scale, strength=1.0)
        torch.testing.assert_close(other * scale, one, rtol=1e-8, atol=1e-8)


def test_subsets_without_a_third_derivative_are_solved_by_newtons_step() -> None:
    h, g = _tensor([2, 1, 0], [1, 3, 1], [0, 1, -1]), _tensor(1, 1, 1)
    eta = minimise_cubic(h, g, _tensor(0, 0, 1), strength=1.0)
    _assert_minimum(h, g, _tensor(0, 0, 1), eta, 1.0)
    definite = h + 3 * torch.eye(3)
    newton = torch.linalg.solve(definite, g)
    torch.testing.assert_close(minimise_cubic(definite, g, _tensor(0, 0, 0), strength=1.0), newton)
    tiny = minimise_cubic(definite, g, _tensor(1e-7, 0, 1e-9), strength=1.0)
    torch.testing.assert_close(tiny, newton, rtol=1e-12, atol=0)


def test_model_that_nothing_holds_is_refused() -> None:
    with pytest.raises(NoRatesError, match=r"third derivative is zero \(1 of 2\)"):
        minimise_cubic(torch.diag(_tensor(1, -1)), _tensor(1, 1), _tensor(1, 0), strength=1.0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 6), spread=st.integers(0, 6), strength=st.floats(1e-3, 1e3))
def test_any_model_with_a_third_order_has_its_minimum_found(seed: int, size: int, spread: int, strength: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    h = torch.randn(size, size, generator=draw, dtype=torch.float64)
    scale = 10 ** (spread * (torch.rand(size, generator=draw, dtype=torch.float64) - 0.5))
    h, g, d = (h + h.T) / 2, torch.randn(size, generator=draw, dtype=torch.float64), torch.ones(size).double()
    eta = minimise_cubic(h * scale.outer(scale), g * scale, d * scale, strength=strength) * scale
    _assert_minimum(h, g, d, eta, strength)
