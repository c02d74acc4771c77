"""Do the measures of an update follow their equations, and are those invariant that are said to be?"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dni import measure_update


def test_measures_are_those_of_their_equations() -> None:
    drawn = torch.Generator().manual_seed(0)
    before, after, gradient = (torch.randn(3, 4, generator=drawn, dtype=torch.float64) for _ in range(3))
    cosine = (before * after).sum() / (before.norm() * after.norm())
    assert measure_update(before, after, gradient) == pytest.approx(
        {
            "weight_norm": before.norm().item(),
            "relative_update": ((after - before).norm() / before.norm()).item(),
            "angular_update": math.acos(cosine.item()),
            "gradient_by_norm": (gradient.norm() * before.norm()).item(),
        },
        rel=1e-12,
    )


@pytest.mark.parametrize("angle", [1e-9, 1e-4, 1.0, math.pi / 2, math.pi - 1e-6])
def test_angle_is_right_where_its_cosine_has_lost_its_digits(angle: float) -> None:
    before = torch.tensor([2.0, 0.0], dtype=torch.float64)
    after = 5 * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    assert measure_update(before, after)["angular_update"] == pytest.approx(angle, rel=1e-7)


def test_weight_without_a_direction_and_gradient_that_is_not_known_give_no_number_of_their_own() -> None:
    zero, one = torch.zeros(2), torch.ones(2)
    assert measure_update(zero, one) == {"weight_norm": 0.0, "relative_update": 0.0, "angular_update": 0.0}
    assert measure_update(one, zero)["angular_update"] == 0.0


def test_of_a_layer_before_a_normalisation_only_the_gradient_by_its_norm_ignores_the_scale() -> None:
    """A plain gradient step turns a weight that is c times as large by 1 / c^2 as much."""
    torch.manual_seed(0)
    x, target, small = torch.randn(16, 5), torch.randn(16, 4), torch.randn(4, 5, dtype=torch.float64)
    normalise = nn.BatchNorm1d(4, affine=False, eps=1e-12).double()

    def measures(weight: Tensor) -> dict[str, float]:
        w = weight.clone().requires_grad_()
        (normalise(x.double() @ w.T) * target).mean().backward()
        assert w.grad is not None
        return measure_update(w, w - 1e-3 * w.grad, w.grad)

    one, three = measures(small), measures(3 * small)
    assert three["gradient_by_norm"] == pytest.approx(one["gradient_by_norm"], rel=1e-6)
    assert three["relative_update"] == pytest.approx(one["relative_update"] / 9, rel=1e-6)
    assert three["angular_update"] == pytest.approx(one["angular_update"] / 9, rel=1e-3)
