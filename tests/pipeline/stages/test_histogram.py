"""Does a histogram say what the entries of a tensor are?"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.stages.histogram import binned


def test_histogram_is_that_of_numpy() -> None:
    values = torch.randn(7, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = binned(values)
    counts, edges = np.histogram(values.numpy(), bins=30)
    assert found is not None and found.counts == counts.tolist()
    assert found.limits == pytest.approx(edges[1:].tolist(), rel=1e-12)
    assert (found.low, found.high) == (values.min(), values.max())
    assert found.total == pytest.approx(values.sum().item())
    assert found.total_squares == pytest.approx(values.square().sum().item())


def test_entries_that_are_all_equal_are_one_bin() -> None:
    found = binned(torch.full((4,), 0.5, dtype=torch.bfloat16))
    assert found is not None and (found.low, found.high, found.counts, found.limits) == (0.5, 0.5, [4.0], [0.5])


def test_what_is_not_finite_is_left_out_and_nothing_is_none() -> None:
    found = binned(torch.tensor([1.0, float("nan"), 3.0, float("inf")]))
    assert found is not None and (found.low, found.high, sum(found.counts)) == (1.0, 3.0, 2.0)
    assert binned(torch.tensor([float("nan")])) is None and binned(torch.zeros(0)) is None
