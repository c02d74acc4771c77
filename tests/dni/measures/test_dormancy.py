"""Is a unit dormant that hardly ever answers, for its layer?"""

from __future__ import annotations

import pytest
import torch

from dni.measures.dormancy import DormantUnits


def test_dormant_share_is_of_mean_absolute_activity_over_all_samples() -> None:
    h = torch.randn(20, 6, 3, 3).relu()
    h[:, 0] = 0
    h[:, 1] *= 0.01
    tokens = torch.randn(20, 5, 4)
    measure, again = DormantUnits(num_units={"tokens": 2}, axes={"tokens": -1}), DormantUnits()
    for at in (slice(0, 13), slice(13, 20)):
        measure.update({"conv": h[at], "tokens": tokens[at], "dead": torch.zeros(len(h[at]), 2)})
        again.load_state_dict(measure.state_dict())
    found = measure.result()
    mean = h.double().abs().mean((0, 2, 3))
    torch.testing.assert_close(found["conv"].scores, mean / mean.mean())
    assert found["conv"].shares == {0.0: pytest.approx(1 / 6), 0.025: pytest.approx(2 / 6), 0.1: pytest.approx(2 / 6)}
    heads = tokens.double().abs().mean((0, 1)).view(2, 2).mean(1)
    torch.testing.assert_close(found["tokens"].scores, heads / heads.mean())
    assert found["dead"].shares[0.0] == 1.0
    assert torch.equal(again.result()["conv"].scores, found["conv"].scores)


def test_bad_input_is_refused_by_name() -> None:
    measure = DormantUnits()
    with pytest.raises(ValueError, match="DormantUnits must have seen at least one"):
        measure.result()
    measure.update({"a": torch.ones(3, 2)})
    with pytest.raises(ValueError, match="missing a, new b"):
        measure.update({"b": torch.ones(3, 2)})
    with pytest.raises(ValueError, match=r"each at least 0, got \(-1.0,\)"):
        DormantUnits(taus=(-1.0,))
