"""Is a deeper network the same function, and are layers refused that would not be an identity?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dni import identity_convolution, identity_linear


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
