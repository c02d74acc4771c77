"""Is the virtual gradient that of its model, and does the model learn to have the true one's? In float64.

Letters: N samples, F features, K classes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import MLPHead, Need, Signal, VirtualGradient

SGD = partial(torch.optim.SGD, lr=0.05)
TARGET = torch.tensor([0, 1, 2, 0, 1, 2, 2])


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def _built(h: Tensor, *arguments: Any, **settings: Any) -> VirtualGradient:
    source = VirtualGradient(3, *arguments, **settings)
    source.build(h, generator=torch.Generator().manual_seed(1))
    return source


@pytest.mark.parametrize("label_weight", [0.0, 0.5])
def test_steps_are_those_of_gradient_matching_written_out(label_weight: float) -> None:
    """With the Jacobian by hand, so that nothing is differentiated twice in the same way."""
    model, h = _model(), torch.randn(7, 4, dtype=torch.float64)
    source = _built(h, model, label_weight=label_weight, optimizer=SGD)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    first, last = model[0], model[2]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    for step in range(4):
        gradient = torch.randn(7, 4, dtype=torch.float64)
        middle = torch.tanh(h @ first.weight.T + first.bias)
        z = middle @ last.weight.T + last.bias
        error = torch.softmax(z, 1) - F.one_hot(TARGET, 3)
        virtual = ((error @ last.weight) * (1 - middle**2)) @ first.weight
        signal = Signal(step=step, target=TARGET, gradient=gradient)
        torch.testing.assert_close(source.estimate(h, signal), virtual.detach())
        loss = (virtual - gradient).square().sum() / 7 + label_weight * F.cross_entropy(z, TARGET)
        assert source.learn(h, signal) == pytest.approx(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(
        list(source.parameters()), [parameter.detach() for parameter in model.parameters()], check_stride=False
    )


def test_model_of_the_form_of_the_rest_of_the_network_learns_its_gradient_on_outputs_not_seen() -> None:
    """What lies above is linear with cross entropy, so a linear model can have exactly its gradient."""
    above = nn.Linear(4, 3).double()

    def signal(step: int, h: Tensor) -> Signal:
        target = torch.randint(3, (64,))
        leaf = h.clone().requires_grad_()
        (true,) = torch.autograd.grad(F.cross_entropy(above(leaf), target, reduction="sum"), leaf)
        return Signal(step=step, target=target, gradient=true)

    source = _built(torch.zeros(64, 4, dtype=torch.float64), "linear", optimizer=partial(torch.optim.Adam, lr=0.05))
    for step in range(300):
        h = torch.randn(64, 4, dtype=torch.float64)
        source.learn(h, signal(step, h))
    h = torch.randn(64, 4, dtype=torch.float64)
    fresh = signal(300, h)
    found, true = source.estimate(h, fresh), fresh.gradient
    assert isinstance(found, Tensor) and isinstance(true, Tensor)
    assert (found - true).norm() < 0.02 * true.norm()


def test_loss_of_a_new_model_is_the_squared_norm_of_the_gradient() -> None:
    h, gradient = torch.randn(7, 4), torch.randn(7, 4)
    loss = _built(h).learn(h, Signal(step=0, target=TARGET, gradient=gradient))
    assert loss == pytest.approx(gradient.square().sum(1).mean().item())


def test_virtual_gradient_needs_labels_and_learns_from_the_gradient() -> None:
    assert VirtualGradient.needs == Need.TARGET and VirtualGradient.learns_from == Need.GRADIENT | Need.TARGET
    h = torch.randn(7, 4)
    source = _built(h, MLPHead(num_hidden=1))
    with pytest.raises(ValueError, match="VirtualGradient needs labels, and the signal of step 2 has no target"):
        source.estimate(h, Signal(step=2))
    with pytest.raises(ValueError, match="step 2 has no gradient"):
        source.learn(h, Signal(step=2, target=TARGET))


def test_negative_weight_of_the_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="label_weight must be at least 0, got -1"):
        VirtualGradient(label_weight=-1.0)
