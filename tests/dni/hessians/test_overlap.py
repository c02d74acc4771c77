"""Is the overlap the trace of a product of two projections, and does it peak where inputs have a mean?"""

from __future__ import annotations

import pytest
import torch

from dni import KroneckerFactors, overlap_curve, random_overlap, subspace_overlap


def _frame(size: int, k: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, k, dtype=torch.float64))[0]


def test_overlap_is_the_trace_of_the_product_of_two_projections() -> None:
    first, second = _frame(9, 4), _frame(9, 4)
    curve = overlap_curve(first, second)
    for k in range(1, 5):
        u, v = first[:, :k], second[:, :k]
        assert float(curve[k - 1]) == pytest.approx(float(torch.trace(u @ u.T @ v @ v.T)) / k)
    assert subspace_overlap(first, second) == float(curve[-1])
    rotated = first @ _frame(4, 4)
    assert subspace_overlap(first, rotated) == pytest.approx(1.0)
    assert subspace_overlap(_frame(9, 9)[:, :4], first) <= 1.0


def test_random_subspaces_overlap_by_k_of_all_directions_in_the_mean() -> None:
    found = torch.tensor([subspace_overlap(_frame(30, 6), _frame(30, 6)) for _ in range(200)])
    assert abs(float(found.mean()) - random_overlap(6, 30)) < 4 * float(found.std()) / 200**0.5
    with pytest.raises(ValueError, match="k must be from 1 to the 30 parameters, got 31"):
        random_overlap(31, 30)


def test_models_with_inputs_of_one_mean_overlap_most_at_as_many_directions_as_the_weight_has_rows() -> None:
    m, n = 5, 8
    frames = []
    for _ in range(2):
        x = 1 + 0.3 * torch.randn(400, n, dtype=torch.float64)
        root = torch.eye(m, dtype=torch.float64) + 0.2 * torch.randn(m, m, dtype=torch.float64)
        factors = KroneckerFactors(
            output=root @ root.T, input=x.T @ x / 400, mean_input=x.mean(0), shape=torch.Size((m, n))
        )
        frames.append(factors.eigenpairs(2 * m).vectors)
    curve = overlap_curve(*frames)
    assert int(curve.argmax()) + 1 == m and float(curve[m - 1]) > 0.99
    assert float(curve[2 * m - 1]) < 0.8


def test_frames_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape \(P, k\), got \(9, 4\) and \(9, 3\)"):
        subspace_overlap(_frame(9, 4), _frame(9, 3))
    with pytest.raises(ValueError, match="those of the second frame are off by 3"):
        subspace_overlap(_frame(9, 4), 2 * _frame(9, 4))
