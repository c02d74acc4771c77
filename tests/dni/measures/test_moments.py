"""Are moments of batches those of all rows at once?"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dni.measures.moments import Moments


def test_moments_are_those_of_all_rows_far_from_zero_too() -> None:
    rows = torch.randn(50, 4, dtype=torch.float64) + 1e6
    rows[:, 3] = 0.1
    moments = Moments()
    for at in (slice(0, 1), slice(1, 30), slice(30, 50)):
        moments.add(rows[at])
    np.testing.assert_allclose(moments.mean.numpy(), rows.numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.scatter.numpy() / 50, np.cov(rows.numpy().T, bias=True), atol=1e-9)
    expected = np.corrcoef(rows[:, :3].numpy().T)
    np.testing.assert_allclose(moments.correlation()[:3, :3].numpy(), expected, atol=1e-9)
    assert moments.correlation()[3].tolist() == [0.0] * 4, "what does not vary goes with nothing"
    with pytest.raises(ValueError, match="keep their width, 4 numbers, got 3"):
        moments.add(rows[:, :3])
