"""Does direct feedback alignment learn as the formulas of its paper written out by hand, in float64?

Letters: N samples, F features, C outputs.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import DirectFeedbackAlignment, Signal


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_gradient_is_the_error_times_a_fixed_matrix_for_each_member() -> None:
    h = (torch.randn(6, 4, dtype=torch.float64), torch.arange(6), torch.randn(6, 2, 3, 3))
    source = DirectFeedbackAlignment(5)
    source.build(h, generator=_generator())
    error = torch.randn(6, 5, dtype=torch.float64)
    features, indices, images = source.estimate(h, Signal(step=0, error=error))
    first, second = source.feedback
    assert first.shape == (5, 4) and second.shape == (5, 18) and indices is None
    torch.testing.assert_close(features, error @ first)
    torch.testing.assert_close(images, (error.float() @ second).view(6, 2, 3, 3))


def test_entries_have_the_deviation_that_was_asked_for() -> None:
    source = DirectFeedbackAlignment(16, scale=3.0)
    source.build(torch.randn(2, 5000), generator=_generator())
    (matrix,) = source.feedback
    assert matrix.std().item() == pytest.approx(3.0 / 4.0, rel=0.02)
    assert not matrix.requires_grad and "feedback.0" in source.state_dict()


@pytest.mark.parametrize("settings", [{"num_outputs": 0}, {"scale": 0.0}, {"scale": float("inf")}])
def test_settings_without_meaning_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="num_outputs must be at least 1 and scale positive"):
        DirectFeedbackAlignment(**settings)


def test_error_that_is_missing_or_of_another_width_is_refused() -> None:
    h = torch.randn(6, 4)
    source = DirectFeedbackAlignment(5)
    source.build(h, generator=_generator())
    with pytest.raises(ValueError, match="the signal of step 3 has no error"):
        source.estimate(h, Signal(step=3))
    with pytest.raises(ValueError, match=r"for 5 outputs .* has 7 per sample. Set num_outputs to 7"):
        source.estimate(h, Signal(step=0, error=torch.randn(6, 7)))


def test_network_trained_by_stages_equals_one_written_out_by_hand() -> None:
    widths, lr, num_samples = (6, 8, 7, 4), 0.1, 5
    torch.manual_seed(0)
    layers = [nn.Linear(a, b).double() for a, b in pairwise(widths)]
    weights = [layer.weight.detach().clone() for layer in layers]
    biases = [layer.bias.detach().clone() for layer in layers]
    sources = [DirectFeedbackAlignment(4) for _ in range(2)]
    for index, source in enumerate(sources):
        source.build(torch.empty(num_samples, widths[index + 1], dtype=torch.float64), generator=_generator(index))
    matrices = [copy.deepcopy(source.feedback[0].detach()) for source in sources]
    for step in range(6):
        x = torch.randn(num_samples, widths[0], dtype=torch.float64)
        target = torch.randint(4, (num_samples,))
        _learn_in_stages(layers, sources, x, target, step=step, lr=lr)
        _learn_by_hand(weights, biases, matrices, x, target, lr=lr)
    for layer, weight, bias in zip(layers, weights, biases, strict=True):
        torch.testing.assert_close(layer.weight.detach(), weight, rtol=0, atol=1e-12)
        torch.testing.assert_close(layer.bias.detach(), bias, rtol=0, atol=1e-12)


def _learn_in_stages(
    layers: list[nn.Linear],
    sources: list[DirectFeedbackAlignment],
    x: Tensor,
    target: Tensor,
    *,
    step: int,
    lr: float,
) -> None:
    """Each layer is a stage: cut off from the others, with the gradient that its source says."""
    first = layers[0](x).tanh()
    second = layers[1](first.detach()).tanh()
    y = layers[2](second.detach())
    (error,) = torch.autograd.grad(nn.functional.cross_entropy(y, target, reduction="sum"), y, retain_graph=True)
    signal = Signal(step=step, error=error)
    for h, source in zip((first, second), sources, strict=True):
        h.backward(source.estimate(h.detach(), signal))
    y.backward(error)
    with torch.no_grad():
        for parameter in (p for layer in layers for p in layer.parameters()):
            parameter -= lr * parameter.grad / len(x)
            parameter.grad = None


def _learn_by_hand(
    weights: list[Tensor], biases: list[Tensor], matrices: list[Tensor], x: Tensor, target: Tensor, *, lr: float
) -> None:
    """δa_i = (e B_i) ⊙ f'(a_i), dW_i = δa_i' h_(i-1)."""
    h1 = torch.tanh(x @ weights[0].T + biases[0])
    h2 = torch.tanh(h1 @ weights[1].T + biases[1])
    error = torch.softmax(h2 @ weights[2].T + biases[2], dim=1)
    error[torch.arange(len(x)), target] -= 1.0
    deltas = [(error @ matrices[0]) * (1 - h1 * h1), (error @ matrices[1]) * (1 - h2 * h2), error]
    for weight, bias, delta, h in zip(weights, biases, deltas, (x, h1, h2), strict=True):
        weight -= lr * delta.T @ h / len(x)
        bias -= lr * delta.sum(dim=0) / len(x)
