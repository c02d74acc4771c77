"""Is a gradient of zero another thing than none?"""

from __future__ import annotations

import torch
from torch import nn

from dni import NoGradient, Signal, ZeroGradient, carriers


def test_zeros_stand_where_a_gradient_would() -> None:
    h = (torch.randn(6, 4, requires_grad=True), torch.arange(6))
    found = ZeroGradient().estimate(h, Signal(step=0))
    assert isinstance(found, tuple) and found[1] is None and found[0] is not None
    assert found[0].shape == (6, 4) and not found[0].any() and not found[0].requires_grad


def test_zeros_let_momentum_and_weight_decay_move_the_weights_and_none_does_not() -> None:
    moved = {}
    for name, source in (("zero", ZeroGradient()), ("none", NoGradient())):
        layer = nn.Linear(4, 4)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        layer(torch.randn(6, 4)).square().sum().backward()
        optimizer.step()
        before = layer.weight.detach().clone()
        optimizer.zero_grad()
        h = layer(torch.randn(6, 4))
        gradient = source.estimate(h, Signal(step=0))
        if gradient is not None:
            torch.autograd.backward(carriers(h), carriers(gradient))
        optimizer.step()
        moved[name] = not torch.equal(before, layer.weight)
    assert moved == {"zero": True, "none": False}
