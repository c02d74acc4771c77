"""Are scores what their formulas say, computed by loops over single numbers in float64?"""

from __future__ import annotations

import math
import re
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dni import (
    Hidden,
    RunningScores,
    score_dormancy,
    score_magnitude,
    score_movement,
    score_random,
    score_taylor,
    score_unit_activity,
    score_unit_norm,
    score_unit_taylor,
    sum_by_unit,
)
from pipeline.randomness.keyed import generator

KEYED = partial(generator, 0, step=0)


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _parameter(seed: int = 0) -> nn.Parameter:
    parameter = nn.Parameter(_draw(4, 3, seed=seed))
    parameter.grad = _draw(4, 3, seed=seed + 100)
    return parameter


def test_scores_of_parameters_are_those_of_their_equations() -> None:
    parameter = _parameter()
    w, g = parameter.detach().flatten().tolist(), parameter.grad.flatten().tolist()  # type: ignore[union-attr]
    named = {"a": parameter}
    assert score_magnitude(named)["a"].flatten().tolist() == [abs(x) for x in w]
    assert score_movement(named)["a"].flatten().tolist() == [-x * y for x, y in zip(w, g, strict=True)]
    taylor = score_taylor(named)["a"].flatten().tolist()
    assert taylor == pytest.approx([(x * y) ** 2 for x, y in zip(w, g, strict=True)], rel=1e-14)


def test_movement_adds_up_over_updates_while_the_weights_change() -> None:
    parameter, scores, total = _parameter(), RunningScores(), 0.0
    for step in range(5):
        parameter.grad = _draw(4, 3, seed=step)
        scores.add(score_movement({"a": parameter}), num_samples=7)
        total -= float(parameter.detach()[1, 2]) * float(parameter.grad[1, 2])
        with torch.no_grad():
            parameter.sub_(0.1 * parameter.grad)
    assert float(scores.totals()["a"][1, 2]) == pytest.approx(total, rel=1e-14)


def test_random_scores_are_keyed_and_know_nothing_of_the_values() -> None:
    one = score_random({"a": torch.zeros(50), "b": torch.zeros(50)}, KEYED)
    two = score_random({"b": torch.ones(50)}, KEYED)
    assert torch.equal(one["b"], two["b"]) and not torch.equal(one["a"], one["b"])


@pytest.mark.parametrize("order", [1, 2])
def test_norm_of_a_unit_is_over_all_that_makes_it(order: int) -> None:
    network = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 1, 1)).double()
    hidden = Hidden.of(network, producers=["0", "1"], consumers=["2"], unit_size=2)
    found = score_unit_norm(hidden, order=order)  # type: ignore[arg-type]
    weights = [network[0].weight.detach(), network[1].weight.detach()]
    for unit in range(3):
        numbers = [x for weight in weights for x in weight[2 * unit : 2 * unit + 2].flatten().tolist()]
        assert float(found[unit]) == pytest.approx(math.fsum(abs(x) ** order for x in numbers) ** (1 / order))
    assert sum_by_unit(torch.ones(6, 5), num_units=2).tolist() == [15.0, 15.0]


@pytest.mark.parametrize(("shape", "axis"), [((5, 4), 1), ((5, 4, 3, 2), 1), ((5, 7, 4), -1)])
@pytest.mark.parametrize("num_units", [4, 2])
def test_scores_of_units_are_means_over_positions_and_samples_however_they_are_cut(
    shape: tuple[int, ...], axis: int, num_units: int
) -> None:
    h, gradient = _draw(*shape), _draw(*shape, seed=1)
    activity, taylor = RunningScores(), RunningScores()
    for part in (slice(0, 3), slice(3, 5)):
        size = h[part].shape[0]
        activity.add({"0": score_unit_activity(h[part], num_units=num_units, axis=axis)}, num_samples=size)
        own = score_unit_taylor(h[part], gradient[part], num_units=num_units, axis=axis)
        taylor.add({"0": own}, num_samples=size)
    wide = 4 // num_units
    for unit in range(num_units):
        chosen = range(unit * wide, (unit + 1) * wide)
        loud, needed = [], []
        for sample in range(5):
            of = [h[sample].select(axis if axis < 0 else axis - 1, c).flatten() for c in chosen]
            slope = [gradient[sample].select(axis if axis < 0 else axis - 1, c).flatten() for c in chosen]
            products = torch.cat(of) * torch.cat(slope)
            loud.append(sum(abs(x) for x in torch.cat(of).tolist()) / len(products))
            needed.append(abs(sum(products.tolist()) / len(products)))
        assert float(activity.means()["0"][unit]) == pytest.approx(sum(loud) / 5, rel=1e-13)
        assert float(taylor.means()["0"][unit]) == pytest.approx(sum(needed) / 5, rel=1e-13)


def test_taylor_score_of_a_linear_unit_is_what_its_loss_does_when_it_is_silenced() -> None:
    """The loss is linear in h here, so that the first order is all there is."""
    h, a = _draw(6, 3).requires_grad_(), _draw(3, seed=1)
    (gradient,) = torch.autograd.grad((h * a).sum(), h)
    found = score_unit_taylor(h, gradient, num_units=3)
    assert found.tolist() == pytest.approx((h.detach() * a).abs().sum(0).tolist(), rel=1e-14)


def test_dormancy_is_activity_for_the_layers_mean_and_0_where_all_is_silent() -> None:
    assert score_dormancy(torch.tensor([0.0, 1.0, 3.0, 4.0])).tolist() == [0.0, 0.5, 1.5, 2.0]
    assert score_dormancy(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_running_scores_go_on_from_a_checkpoint_and_keep_half_precision_from_rounding() -> None:
    scores = RunningScores()
    for _ in range(300):
        scores.add({"a": torch.ones(2, dtype=torch.bfloat16)}, num_samples=1)
    assert scores.totals()["a"].tolist() == [300.0, 300.0]
    other = RunningScores()
    other.load_state_dict(scores.state_dict())
    other.add({"a": torch.zeros(2)}, num_samples=300)
    assert other.means()["a"].tolist() == [0.5, 0.5] and scores.means()["a"].tolist() == [1.0, 1.0]


def test_what_cannot_be_scored_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="a must have a gradient to be scored by it, found None"):
        score_movement({"a": nn.Parameter(torch.ones(2))})
    with pytest.raises(ValueError, match="must divide the channels, got 3 units for 4 channels"):
        score_unit_activity(torch.ones(2, 4), num_units=3)
    with pytest.raises(ValueError, match=re.escape("axis must be that of the channels of an h of (N, C, ...), got 0")):
        score_unit_activity(torch.ones(2, 4), num_units=4, axis=0)
    with pytest.raises(ValueError, match=re.escape("must have one shape, got (2, 4) and (2, 3)")):
        score_unit_taylor(torch.ones(2, 4), torch.ones(2, 3), num_units=1)
    with pytest.raises(ValueError, match="the norm of 2 units needs the weights that compute them, found only"):
        score_unit_norm(Hidden(num_units=2, tensors={}))
    scores = RunningScores()
    scores.add({"a": torch.ones(2)}, num_samples=1)
    with pytest.raises(ValueError, match=re.escape("the scores of a must keep their shape, (2,), got (3,)")):
        scores.add({"a": torch.ones(3)}, num_samples=1)
    with pytest.raises(ValueError, match="at least 1 sample, got 0"):
        scores.add({"a": torch.ones(2)}, num_samples=0)
