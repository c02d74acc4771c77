"""Does kickback give every unit the error of its output, and a stage's first layer the paper's rule?

Letters: N samples, C outputs.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dni import Kickback, Signal


def test_with_one_output_every_unit_is_given_the_error() -> None:
    error = torch.randn(5, 1)
    for shape in ((5, 4), (5, 3, 4), (5, 2, 3, 3)):
        estimate = Kickback().estimate(torch.randn(shape), Signal(step=0, error=error))
        assert torch.equal(estimate, error.view(5, *(1,) * (len(shape) - 1)).expand(shape))


def test_with_more_outputs_each_unit_channel_or_feature_answers_for_one() -> None:
    error = torch.randn(5, 3)
    features, images, tokens = Kickback().estimate(
        (torch.randn(5, 7), torch.randn(5, 4, 2, 2), torch.randn(5, 2, 4)), Signal(step=0, error=error)
    )
    assert torch.equal(features, error[:, [0, 1, 2, 0, 1, 2, 0]])
    assert torch.equal(images, error[:, [0, 1, 2, 0], None, None].expand(5, 4, 2, 2))
    assert torch.equal(tokens, error[:, None, [0, 1, 2, 0]].expand(5, 2, 4))


def test_error_that_is_missing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Kickback needs dL/dy at the network's output.*step 2 has no error"):
        Kickback().estimate(torch.randn(5, 4), Signal(step=2))


def test_network_of_a_stage_with_two_layers_equals_the_papers_rule_written_out_by_hand() -> None:
    """One output, squared error, rectifiers: a unit's signal is the error times its influence on the next layer."""
    torch.manual_seed(0)
    stage = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU()).double()
    top = nn.Linear(5, 1).double()
    v, w, u = (layer.weight.detach().clone() for layer in (stage[0], stage[2], top))
    b, c, d = (layer.bias.detach().clone() for layer in (stage[0], stage[2], top))
    source, lr = Kickback(), 0.01
    for step in range(6):
        x, target = torch.randn(8, 4, dtype=torch.float64), torch.randn(8, 1, dtype=torch.float64)
        h = stage(x)
        y = top(h.detach())
        error = (y - target).detach()
        h.backward(source.estimate(h.detach(), Signal(step=step, error=error)))
        y.backward(error)
        with torch.no_grad():
            for parameter in (*stage.parameters(), *top.parameters()):
                parameter -= lr * parameter.grad / 8
                parameter.grad = None

        h1 = (x @ v.T + b).clamp(min=0)
        h2 = (h1 @ w.T + c).clamp(min=0)
        global_error = h2 @ u.T + d - target
        active1, active2 = (h1 > 0).double(), (h2 > 0).double()
        influence = active2 @ w  # of each unit of the first layer: its weights to the active units of the next
        kicks = (global_error * influence * active1, global_error * active2, global_error)
        for weight, bias, kick, below in zip((v, w, u), (b, c, d), kicks, (x, h1, h2), strict=True):
            weight -= lr * kick.T @ below / 8
            bias -= lr * kick.sum(dim=0) / 8
    found = (stage[0].weight, stage[2].weight, top.weight, stage[0].bias, stage[2].bias, top.bias)
    for parameter, expected in zip(found, (v, w, u, b, c, d), strict=True):
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-12)
