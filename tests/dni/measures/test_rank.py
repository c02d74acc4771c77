"""Are ranks those of spectra that are known, and of all samples however they come?"""

from __future__ import annotations

import math

import pytest
import torch

from dni.measures.layer_measure import mean_over_positions
from dni.measures.rank import About, Ranks, effective_rank, stable_rank

D = torch.float64


def test_ranks_of_known_spectra() -> None:
    assert effective_rank(torch.ones(7)) == pytest.approx(7.0) and stable_rank(torch.ones(7)) == pytest.approx(7.0)
    one = torch.tensor([0.0, 3.0, 0.0])
    assert effective_rank(one) == pytest.approx(1.0) and stable_rank(one) == pytest.approx(1.0)
    values = torch.tensor([2.0, 1.0, 1.0])
    entropy = 0.5 * math.log(2) + 2 * 0.25 * math.log(4)
    assert effective_rank(values) == pytest.approx(math.exp(entropy))
    assert effective_rank(10 * values) == pytest.approx(math.exp(entropy)) and stable_rank(values) == pytest.approx(1.5)
    assert effective_rank(torch.zeros(3)) == stable_rank(torch.zeros(3)) == 0.0
    for bad in (torch.tensor([1.0, -1.0]), torch.tensor([math.nan]), torch.zeros(0), torch.ones(2, 2)):
        with pytest.raises(ValueError, match="vector of finite numbers of at least 0"):
            effective_rank(bad)


@pytest.mark.parametrize("about", ["mean", "zero"])
def test_ranks_of_minibatches_are_those_of_the_whole_matrix(about: About) -> None:
    """A matrix of rank 3 in 6 features; the twin takes its singular values."""
    h = torch.randn(40, 3, dtype=D) @ torch.randn(3, 6, dtype=D) + torch.ones(6, dtype=D)
    measure, again = Ranks(about=about), Ranks(about=about)
    for at in (slice(0, 7), slice(7, 40)):
        measure.update({"h": h[at], "dead": torch.zeros_like(h[at])})
        again.load_state_dict(measure.state_dict())
    values = torch.linalg.svdvals(h - h.mean(0) if about == "mean" else h) / math.sqrt(40)
    for own in (measure, again):
        found = own.result()
        torch.testing.assert_close(found["h"].singular_values, values, rtol=1e-8, atol=1e-6)
        assert found["h"].effective_rank == pytest.approx(effective_rank(values), rel=1e-6)
        assert found["h"].stable_rank == pytest.approx(stable_rank(values))
        assert found["h"].effective_rank < (3.1 if about == "mean" else 4.1)
        assert found["dead"].effective_rank == found["dead"].stable_rank == 0.0


def test_rank_sees_neither_rotation_nor_scale_nor_mean() -> None:
    h = torch.randn(30, 5, dtype=D) * torch.tensor([5, 3, 2, 1, 0.1])
    turned = 7 * h @ torch.linalg.qr(torch.randn(5, 5, dtype=D)).Q + 100
    measure = Ranks()
    measure.update({"h": h, "turned": turned})
    found = measure.result()
    assert found["turned"].effective_rank == pytest.approx(found["h"].effective_rank, rel=1e-9)
    assert found["turned"].stable_rank == pytest.approx(found["h"].stable_rank, rel=1e-9)


def test_layer_too_wide_for_a_covariance_is_refused_by_name_and_may_be_averaged() -> None:
    h = torch.randn(4, 3, 8, 8)
    measure = Ranks(max_features=100)
    with pytest.raises(ValueError, match=r"conv must have at most 100 features .* got 192"):
        measure.update({"conv": h})
    measure.update({"conv": mean_over_positions(h), "tokens": mean_over_positions(h.flatten(2), axis=-1)})
    assert [len(found.singular_values) for found in measure.result().values()] == [3, 64]
    assert torch.equal(mean_over_positions(h), h.mean((2, 3))) and mean_over_positions(h[:, :, 0, 0]).shape == (4, 3)
    with pytest.raises(ValueError, match="about must be one of mean, zero, got 'median'"):
        Ranks(about="median")  # type: ignore[arg-type]
