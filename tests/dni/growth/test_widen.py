"""Is a wider or deeper network the same function, and do its gradients follow as `map_tensor` says?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni import (
    Hidden,
    Origin,
    Resized,
    identity_convolution,
    identity_linear,
    keep_units,
    map_tensor,
    random_units,
    widen,
)
from tests.dni.structure.networks import NETWORKS, hidden_of, rebuilt, trained


def _gradients(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    parameters = dict(network.named_parameters())
    loss = network(x).tanh().square().sum()
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def _uneven(hidden: Hidden) -> Resized:
    """A unit is copied, and one of its copies again: shares 1/4, 1/2, 1/4."""
    return hidden.follow(Origin.duplicate([1], num_old=4).then(Origin.duplicate([1], num_old=5)))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", NETWORKS)
def test_wider_network_is_the_same_function_and_its_gradients_are_the_mapped_ones(name: str, training: bool) -> None:
    network, x = trained(name)
    hidden = hidden_of(network)
    network.train(training)
    changes = [widen(hidden, [0, 1, 2, 3])]
    if not hidden.mixes_units:
        changes += [widen(hidden, [1, 1, 3]), _uneven(hidden)]
    for resized in changes:
        wide = rebuilt(network, resized)
        torch.testing.assert_close(wide(x), network(x), rtol=0, atol=1e-12)
        gradients = _gradients(network, x)
        for own, gradient in _gradients(wide, x).items():
            expected = gradients[own]
            if own in resized.changes:
                expected = map_tensor(expected, [resized.changes[own]], "gradient")
            torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-11)


def test_noise_tells_copies_apart_and_keeps_the_function(generator: torch.Generator) -> None:
    network, x = trained("flattened")
    hidden = hidden_of(network)
    wide = rebuilt(network, widen(hidden, [2, 2, 0], noise=0.5, generator=generator))
    torch.testing.assert_close(wide(x), network(x), rtol=0, atol=1e-12)
    incoming = _gradients(wide, x)["0.weight"]
    assert not torch.allclose(incoming[2], incoming[4]) and not torch.allclose(incoming[4], incoming[5])
    outgoing = wide.get_parameter("3.weight").unflatten(1, (7, 6))
    assert torch.equal(outgoing[:, 1], network.get_parameter("3.weight").unflatten(1, (4, 6))[:, 1]), "has no copy"
    with pytest.raises(ValueError, match=r"noise 0\.5 needs a generator"):
        widen(hidden, [2], noise=0.5)
    assert len(random_units(4, 6, generator=generator)) == 6


def test_uneven_copies_under_a_layer_norm_are_refused() -> None:
    hidden = hidden_of(trained("layer_norm")[0])
    with pytest.raises(ValueError, match=r"got between 1 and 2 copies\. Copy all 4 units"):
        widen(hidden, [1])
    assert keep_units(hidden, [1]).tensors["1.weight"].shape == (1,)


def test_deeper_network_computes_the_very_same_bits() -> None:
    x, image = torch.randn(7, 5), torch.randn(2, 3, 6, 5).relu()
    first, second = nn.Linear(5, 4), nn.Linear(4, 4)
    weight, bias = identity_linear(4, activation=torch.relu)
    with torch.no_grad():
        second.weight.copy_(weight)
        second.bias.copy_(bias)
    assert torch.equal(second(first(x).relu()).relu(), first(x).relu())
    kernel, shift = identity_convolution(3, kernel_size=(3, 5), activation=nn.Hardtanh(0, 6))
    assert torch.equal(torch.conv2d(image, kernel, shift, padding=(1, 2)), image)


def test_layers_that_would_not_be_an_identity_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"idempotent activation, s\(s\(x\)\) = s\(x\), but here s\(.*\) = .* Use ReLU"
    ):
        identity_linear(4, activation=torch.tanh)
    with pytest.raises(ValueError, match="idempotent"):
        identity_convolution(4, kernel_size=(3,), activation=nn.LeakyReLU())
    with pytest.raises(ValueError, match=r"must be odd, got \(3, 4\)"):
        identity_convolution(4, kernel_size=(3, 4), activation=torch.relu)
