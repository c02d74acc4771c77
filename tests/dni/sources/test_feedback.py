"""Does a converted layer change nothing on the way up, and send back what its own backward weights say?

Letters: N samples, I and O features, C channels.
"""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dni import convert_to_feedback_alignment

CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1d": (nn.Conv1d(3, 4, 3, padding=1), (5, 3, 8)),
    "2d": (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2), (5, 4, 9, 7)),
    "3d": (nn.Conv3d(2, 3, 2, bias=False), (2, 2, 4, 5, 3)),
    "same": (nn.Conv2d(3, 4, 3, padding="same", dilation=2), (5, 3, 7, 6)),
    "valid": (nn.Conv2d(3, 4, 3, padding="valid"), (5, 3, 7, 6)),
    "reflect": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (5, 3, 7, 6)),
}


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _converted(module: nn.Module, mode: Any = "random") -> Any:
    other = copy.deepcopy(module)
    convert_to_feedback_alignment(other, generator=_generator(), mode=mode)
    return other


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


@pytest.mark.parametrize("mode", ["random", "sign"])
def test_network_learns_from_the_equations_of_the_paper_written_out(mode: Any) -> None:
    network = _converted(_network(), mode)
    x, target = torch.randn(7, 6, dtype=torch.float64), torch.randint(3, (7,))
    F.cross_entropy(network(x), target, reduction="sum").backward()
    (w1, b1), (w2, b2), (w3, b3) = ((layer.weight.detach(), layer.bias.detach()) for layer in network[::2])
    ways = [layer.feedback * (layer.weight.detach().sign() if mode == "sign" else 1.0) for layer in network[::2]]
    h1 = torch.tanh(x @ w1.T + b1)
    h2 = torch.tanh(h1 @ w2.T + b2)
    e3 = torch.softmax(h2 @ w3.T + b3, 1) - F.one_hot(target, 3)
    e2 = (e3 @ ways[2]) * (1 - h2**2)
    e1 = (e2 @ ways[1]) * (1 - h1**2)
    for layer, error, below in zip(network[::2], (e1, e2, e3), (x, h1, h2), strict=True):
        torch.testing.assert_close(layer.weight.grad, error.T @ below)
        torch.testing.assert_close(layer.bias.grad, error.sum(0))


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("mode", ["random", "sign"])
def test_convolution_sends_back_what_one_with_its_feedback_weights_would(kind: str, mode: Any) -> None:
    layer, shape = copy.deepcopy(CONVOLUTIONS[kind][0]).double(), CONVOLUTIONS[kind][1]
    converted, other = _converted(layer, mode), copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.copy_(converted.feedback * (layer.weight.sign() if mode == "sign" else 1.0))
    x = torch.randn(shape, dtype=torch.float64).requires_grad_()
    outputs = [each(x) for each in (layer, converted, other)]
    assert torch.equal(outputs[0], outputs[1])
    error = torch.randn_like(outputs[0])
    exact, found, wanted = (
        torch.autograd.grad(output, [x, *each.parameters()], error)
        for each, output in zip((layer, converted, other), outputs, strict=True)
    )
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(found[1:], exact[1:])


def test_forward_does_not_change_by_a_bit() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
    x = torch.randn(9, 1, 8, 8)
    assert torch.equal(module(x), _converted(module)(x))
    tokens = nn.Linear(6, 5, bias=False)
    x = torch.randn(2, 3, 6)
    assert torch.equal(tokens(x), _converted(tokens)(x))


def test_tokens_send_back_each_their_own() -> None:
    layer = _converted(nn.Linear(6, 5).double())
    x, error = torch.randn(2, 3, 6, dtype=torch.float64).requires_grad_(), torch.randn(2, 3, 5, dtype=torch.float64)
    layer(x).backward(error)
    torch.testing.assert_close(x.grad, error @ layer.feedback)
    torch.testing.assert_close(layer.weight.grad, torch.einsum("nto,nti->oi", error, x.detach()))
    torch.testing.assert_close(layer.bias.grad, error.sum((0, 1)))


def test_feedback_is_drawn_in_the_range_of_the_weights_and_keeps_still() -> None:
    layer, same = (_converted(nn.Linear(400, 50)) for _ in range(2))
    assert torch.equal(layer.feedback, same.feedback) and 0.048 < layer.feedback.abs().max() <= 0.05
    assert layer.feedback.min() < -0.048 and not layer.feedback.requires_grad
    sizes = _converted(nn.Linear(400, 50), "sign").feedback
    assert sizes.min() >= 0.0 and 0.048 < sizes.max() <= 0.05


def test_layers_stay_the_same_objects_and_their_feedback_is_saved() -> None:
    network = _network()
    parameters, layers = list(network.parameters()), list(network)
    convert_to_feedback_alignment(network, generator=_generator())
    assert all(a is b for a, b in zip(parameters, network.parameters(), strict=True)) and list(network) == layers
    stream = io.BytesIO()
    torch.save(network.state_dict(), stream)
    stream.seek(0)
    other = _network()
    convert_to_feedback_alignment(other, generator=_generator(2))
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(other[2].feedback, network[2].feedback)


def test_signs_follow_the_weights() -> None:
    layer = _converted(nn.Linear(3, 2).double(), "sign")
    with torch.no_grad():
        layer.weight.neg_()
    x = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad[0], (layer.feedback * layer.weight.sign()).sum(0))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.GRU(2, 2)), "layer '1', a GRU, cannot be converted"),
        (nn.MultiheadAttention(4, 2), "the layer, a MultiheadAttention, cannot be converted"),
        (nn.ConvTranspose2d(2, 2, 3), "a ConvTranspose2d, cannot"),
        (nn.Conv2d(2, 2, 2, padding="same"), "more zeros on one side"),
        (nn.ReLU(), "must be a Linear or Conv layer to convert, got ReLU"),
        (_converted(nn.Linear(2, 2)), "was converted before"),
    ],
)
def test_what_would_go_on_sending_back_the_exact_gradient_is_refused(module: nn.Module, message: str) -> None:
    types = [type(layer) for layer in module.modules()]
    with pytest.raises(ValueError, match=message):
        convert_to_feedback_alignment(module, generator=_generator())
    assert [type(layer) for layer in module.modules()] == types


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode must be 'random' or 'sign', got 'fixed'"):
        convert_to_feedback_alignment(nn.Linear(2, 2), generator=_generator(), mode="fixed")  # type: ignore[arg-type]
