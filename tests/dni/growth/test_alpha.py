"""Is a component phased in by one alpha, and folded into the weights without a change?"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dni import CosineRamp, GatedComponent, LinearRamp, LossRamp, Origin, Progress, Ramp
from tests.dni.structure.networks import changed, hidden_of, trained


def _alphas(ramp: Ramp, losses: list[float]) -> list[float]:
    progress, alphas = Progress(), []
    for loss in losses:
        progress = ramp.advance(progress, loss)
        alphas.append(progress.alpha)
    return alphas


def test_ramps_rise_from_nothing_to_one_and_stay() -> None:
    assert _alphas(LinearRamp(num_steps=4), [math.nan] * 6) == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = _alphas(CosineRamp(num_steps=4), [0.0] * 5)
    assert cosine == pytest.approx([(1 - math.cos(math.pi * t / 4)) / 2 for t in (1, 2, 3, 4, 4)]) and cosine[-1] == 1
    assert _alphas(LossRamp(num_steps=3), [1.0] * 5) == [1 / 3, 2 / 3, 1, 1, 1]


def test_loss_ramp_waits_while_the_loss_is_above_its_best() -> None:
    ramp = LossRamp(num_steps=10, slack=0.1, memory=0.5)
    losses, smoothed, best, expected = [1.0, 0.8, 3.0, 1.0, 0.5, 0.5, 0.5], 1.0, 1.0, []
    alpha = 0
    for loss in losses:
        smoothed = 0.5 * smoothed + 0.5 * loss
        best = min(best, smoothed)
        alpha += smoothed <= 1.1 * best
        expected.append(alpha / 10)
    assert _alphas(ramp, losses) == expected == [0.1, 0.2, 0.2, 0.2, 0.3, 0.4, 0.5]


def test_gate_is_shut_at_zero_and_folds_into_the_weights_at_any_alpha() -> None:
    network, x = trained("mlp")
    component = nn.Sequential(nn.Linear(5, 2), nn.Tanh(), nn.Linear(2, 3)).double()
    gated = GatedComponent(network, component)
    assert torch.equal(gated(x), network(x)) and "alpha" in gated.state_dict()
    gated(x).sum().backward()
    assert all(not parameter.grad.any() for parameter in component.parameters() if parameter.grad is not None)
    gated.set_alpha_(0.3)
    before = gated(x)
    torch.testing.assert_close(before, network(x) + 0.3 * component(x), rtol=0, atol=1e-12)
    parameters = list(gated.parameters())
    folded = gated.fold_()
    torch.testing.assert_close(folded(x), before, rtol=0, atol=1e-12)
    assert all(a is b for a, b in zip(parameters, folded.parameters(), strict=True))
    again = GatedComponent(network, component)
    again.set_alpha_(1)
    open_wide = again(x)
    assert torch.equal(again.fold_()(x), open_wide)


def test_component_behind_a_gate_joins_the_layer_beside_it_as_new_units() -> None:
    network, x = trained("mlp")
    incoming, outgoing = nn.Linear(5, 2).double(), nn.Linear(2, 3, bias=False).double()
    gated = GatedComponent(network, nn.Sequential(incoming, nn.Tanh(), outgoing))
    gated.set_alpha_(0.7)
    fresh = {"0.weight": incoming.weight, "0.bias": incoming.bias, "3.weight": 0.7 * outgoing.weight}
    joined = changed(network, hidden_of(network), Origin.append(2, num_old=4), given=fresh)
    torch.testing.assert_close(joined(x), gated(x), rtol=0, atol=1e-12)


def test_ramps_and_gates_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="one step or more, got 0"):
        LinearRamp(num_steps=0)
    with pytest.raises(ValueError, match=r"got slack=-1, memory=0\.9"):
        LossRamp(num_steps=3, slack=-1)
    with pytest.raises(ValueError, match="one of 0 or more, got nan"):
        LossRamp(num_steps=3).advance(Progress(), math.nan)
    with pytest.raises(TypeError, match=r"ends with the Linear or convolution .* got ReLU"):
        GatedComponent(nn.Identity(), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 2"):
        GatedComponent(nn.Identity(), nn.Sequential(nn.Linear(2, 2))).set_alpha_(2)
