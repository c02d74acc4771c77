"""Is a gradient pulled back through the weights it should be, and are none kept?"""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import RunError
from pipeline.learners.weightless import WeightlessGraphs


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]


def written_out(x: Tensor, g: Tensor, forward: list[Tensor], backward: list[Tensor]) -> list[Tensor]:
    """dL/d(W1, b1, W2, b2) for y = tanh(x W1' + b1) W2' + b2, with the weights of the one and of the other pass."""
    z = torch.tanh(x @ forward[0].T + forward[1])
    before = (g @ backward[2]) * (1 - z**2)
    return [before.T @ x, before.sum(0), g.T @ z, g.sum(0)]


@pytest.mark.parametrize("given_forward", [False, True])
@pytest.mark.parametrize("given_backward", [False, True])
def test_forward_and_backward_take_the_weights_they_are_given_or_those_of_the_day(
    given_forward: bool, given_backward: bool
) -> None:
    module = two_layers()
    graphs = WeightlessGraphs(module)
    x, g = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    first = [p.detach().clone() for p in module.parameters()]
    other = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    with graphs.forward(other if given_forward else None):
        h = module(x)
    assert all(map(torch.equal, module.parameters(), first)), "the module has its own weights back"
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    today = [p.detach().clone() for p in module.parameters()]
    another = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    with graphs.backward(another if given_backward else None):
        h.backward(g)
    expected = written_out(
        x,
        g,
        list(other.values()) if given_forward else first,
        list(another.values()) if given_backward else today,
    )
    torch.testing.assert_close(gradients(module), expected, rtol=1e-12, atol=1e-12)


def test_unchanged_weights_give_the_gradients_of_autograd_bit_for_bit() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 3))
    x = torch.randn(6, 2, 4, 4)
    module(x).square().sum().backward()
    expected = [gradient.clone() for gradient in gradients(module)]
    module.zero_grad()
    graphs = WeightlessGraphs(module)
    with graphs.forward(None):
        h = module(x)
    with graphs.backward(None):
        h.square().sum().backward()
    assert all(map(torch.equal, gradients(module), expected)) and len(expected) == 6


def test_graph_keeps_neither_the_weights_it_was_given_nor_itself_alive() -> None:
    module = two_layers()
    given = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    with WeightlessGraphs(module).forward(given):
        h = torch.tanh(module(torch.randn(4, 3, dtype=torch.float64)))
    weights, output = [weakref.ref(value) for value in given.values()], weakref.ref(h)
    gc.disable()
    try:
        given.clear()
        assert not any(weight() is not None for weight in weights), "nothing waits for the garbage collector"
        del h
        assert output() is None
    finally:
        gc.enable()


def test_tensor_that_is_no_parameter_may_not_change() -> None:
    x = torch.randn(4, 3, dtype=torch.float64)
    module = two_layers()
    graphs = WeightlessGraphs(module)
    with graphs.forward(None):
        h = module(x)
    x.mul_(2)
    with pytest.raises(RunError, match=r"shape \(4, 3\).*saved at version 0.*use stash weights or recompute"):
        h.sum().backward()
