"""Is the energy that of the leading singular value, kernels flattened?"""

from __future__ import annotations

import pytest
import torch

from dni import input_alignment, rank_one_energy


def test_energy_is_the_share_of_the_first_singular_value_of_each_vector_as_a_matrix() -> None:
    vectors = torch.randn(24, 3, dtype=torch.float64)
    for column, energy in enumerate(rank_one_energy(vectors, (4, 3, 2)).tolist()):
        sigma = torch.linalg.svdvals(vectors[:, column].reshape(4, 6))
        assert energy == pytest.approx(float(sigma[0] ** 2 / (sigma**2).sum()))


def test_a_product_of_two_directions_has_all_energy_in_rank_one_and_the_identity_its_share() -> None:
    left, right = torch.randn(4, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    vectors = torch.stack([torch.outer(left, right).reshape(-1), torch.eye(4, 6, dtype=torch.float64).reshape(-1)], 1)
    assert rank_one_energy(vectors, (4, 6)).tolist() == pytest.approx([1.0, 0.25])
    assert float(input_alignment(vectors, (4, 6), -3 * right)[0]) == pytest.approx(1.0)
    across = torch.linalg.qr(torch.stack([right, torch.ones_like(right)], 1))[0][:, 1]
    assert float(input_alignment(vectors, (4, 6), across)[0]) == pytest.approx(0.0, abs=1e-12)


def test_vectors_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the P = 24 entries of a weight \(4, 6\) .* got \(28, 2\)"):
        rank_one_energy(torch.randn(28, 2), (4, 6))
    with pytest.raises(ValueError, match=r"must have 6 entries, got \(4,\)"):
        input_alignment(torch.randn(24, 2), (4, 6), torch.ones(4))
