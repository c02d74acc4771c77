"""Do the rules against staleness do to the weights what their papers write?"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dni import Correction, Corrector, DiscrepancyCorrection, NesterovLookahead, WeightPrediction

RULES = [WeightPrediction(), DiscrepancyCorrection(anneal=10), NesterovLookahead()]


def parameter(value: float = 0.0) -> nn.Parameter:
    return nn.Parameter(torch.full((3,), value, dtype=torch.float64))


def moved(corrector: Corrector, weight: nn.Parameter, *changes: float) -> None:
    """Let an optimiser change the weight by these, one update each."""
    for change in changes:
        before = corrector.before_update()
        with torch.no_grad():
            weight += change
        corrector.after_update(before)


def only(weights: dict[str, Tensor] | None) -> float:
    assert weights is not None
    (value,) = weights.values()
    assert value.requires_grad and value.is_leaf
    return value[0].item()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_every_rule_satisfies_the_protocol_and_leaves_alone_what_is_not_stale(rule: Correction) -> None:
    assert isinstance(rule, Correction)
    corrector = Corrector(rule, [("w", parameter())], staleness=2.0)
    assert corrector.weights_ahead(3) is None and corrector.weights_behind(3) is None, "there is no velocity yet"
    assert rule.rate(10, staleness=2.0) == 1.0
    assert rule.ahead(0, staleness=0.0) == rule.behind(0, staleness=0.0) == 0.0


def test_prediction_adds_the_mean_change_once_for_each_update_to_come() -> None:
    weight = parameter(1.0)
    corrector = Corrector(WeightPrediction(momentum=0.5), [("w", weight)], staleness=3.0)
    moved(corrector, weight, 0.8, 0.4)
    assert only(corrector.weights_ahead(3)) == pytest.approx(2.2 + 3 * (0.5 * 0.4 + 0.5 * 0.4))
    assert corrector.weights_ahead(0) is None and corrector.weights_behind(3) is None


def test_prediction_without_a_mean_of_its_own_foretells_an_optimiser_with_a_constant_velocity() -> None:
    weight = parameter()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    corrector = Corrector(WeightPrediction(momentum=0.0), [("w", weight)], staleness=2.0)
    predicted = 0.0
    for update in range(4):
        before = corrector.before_update()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        corrector.after_update(before)
        if update == 1:
            predicted = only(corrector.weights_ahead(2))
    assert weight[0].item() == pytest.approx(predicted)


def test_discrepancy_correction_takes_the_velocity_off_and_forgets_at_the_rate_of_the_staleness() -> None:
    weight = parameter()
    corrector = Corrector(DiscrepancyCorrection(discount=0.25), [("w", weight)], staleness=2.0)
    moved(corrector, weight, 1.0, 0.0)
    assert only(corrector.weights_behind(2)) == pytest.approx(1.0 - 2 * (0.5 * 0.5))
    assert corrector.weights_ahead(2) is None


def test_rate_rises_from_one_over_the_staleness_to_the_whole_one() -> None:
    rule = DiscrepancyCorrection(anneal=100)
    assert [rule.rate(step, staleness=4.0) for step in (0, 50, 100, 500)] == pytest.approx([0.25, 0.5, 1, 1])
    assert {rule.rate(step, staleness=0.5) for step in (0, 50)} == {1.0}
    assert DiscrepancyCorrection().rate(0, staleness=4.0) == 1.0


def test_look_ahead_is_nesterovs_method_with_a_discounted_gradient() -> None:
    """d = m (w' - w); w'' = w' + d - (1 - m) rate gradient(w' + d), for the loss sum(w^4) / 4."""
    m, rate = 0.9, 0.2
    weight = parameter(1.0)
    optimizer = torch.optim.SGD([weight], lr=rate)
    corrector = Corrector(NesterovLookahead(momentum=m), [("w", weight)], staleness=3.0)
    last = now = 1.0
    for _ in range(20):
        d = m * (now - last)
        last, now = now, now + d - (1 - m) * rate * (now + d) ** 3
        ahead = corrector.weights_ahead(3)
        weight.grad = (weight.detach() if ahead is None else ahead["w"].detach()) ** 3
        before = corrector.before_update()
        optimizer.step()
        corrector.after_update(before)
        torch.testing.assert_close(weight[0].item(), now, rtol=1e-12, atol=1e-12)


def test_look_ahead_grows_with_the_staleness_up_to_its_whole_momentum() -> None:
    rule = NesterovLookahead(momentum=0.8, over=4.0)
    assert [rule.decay(staleness) for staleness in (0.0, 1.0, 4.0, 9.0)] == pytest.approx([0.0, 0.2, 0.8, 0.8])
    assert rule.ahead(7, staleness=2.0) == rule.decay(2.0)


def test_velocity_outlives_a_checkpoint_and_frozen_weights_have_none() -> None:
    weight, frozen = parameter(), parameter()
    frozen.requires_grad_(False)
    corrector = Corrector(WeightPrediction(), [("w", weight), ("f", frozen)], staleness=1.0)
    moved(corrector, weight, 1.0)
    other = Corrector(WeightPrediction(), [("w", weight), ("f", frozen)], staleness=1.0)
    other.load_state_dict(corrector.state_dict())
    assert set(corrector.state_dict()) == {"w"}
    assert only(other.weights_ahead(2)) == only(corrector.weights_ahead(2))
    moved(corrector, weight, 1.0)
    assert not torch.equal(other.state_dict()["w"], corrector.state_dict()["w"]), "they share no memory"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightPrediction(momentum=1.0), r"momentum .* \[0, 1\), got 1.0"),
        (lambda: DiscrepancyCorrection(discount=math.inf), r"discount .* \[0, 1\), got inf"),
        (lambda: DiscrepancyCorrection(anneal=-1), "cannot be negative, got -1"),
        (lambda: NesterovLookahead(momentum=-0.1), r"momentum .* \[0, 1\), got -0.1"),
        (lambda: NesterovLookahead(over=0.0), "must be positive, got 0.0"),
    ],
)
def test_rule_that_cannot_be_meant_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
