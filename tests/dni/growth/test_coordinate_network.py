"""Is the network that makes a kernel the one of its equations, with initial values in their bounds?"""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch

from dni import CoordinateNetwork, KernelNetwork

PLACES = torch.linspace(-1, 1, 7, dtype=torch.float64).unsqueeze(1)


@pytest.mark.parametrize("activation", ["sine", "relu"])
@pytest.mark.parametrize("weight_norm", [False, True])
def test_values_are_those_of_a_loop_over_units(activation: Literal["sine", "relu"], weight_norm: bool) -> None:
    torch.manual_seed(0)
    settings = KernelNetwork(hidden=4, activation=activation, omega=7.0, weight_norm=weight_norm)
    network = CoordinateNetwork(settings, num_axes=1, num_values=2).double()
    if weight_norm:
        with torch.no_grad():
            for name, value in network.named_parameters():
                value.mul_(2.0 if name.endswith("length") else 1.0)
    state = network.state_dict()
    for place, found in zip(PLACES.tolist(), network(PLACES).tolist(), strict=True):
        values = place
        for index in range(3):
            rows, bias = state[f"layers.{index}.weight"].tolist(), state[f"layers.{index}.bias"].tolist()
            if weight_norm:
                lengths = state[f"layers.{index}.length"].flatten().tolist()
                rows = [[g * w / math.hypot(*row) for w in row] for g, row in zip(lengths, rows, strict=True)]
            values = [
                sum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(rows, bias, strict=True)
            ]
            if index < 2:
                values = [max(0.0, v) if activation == "relu" else math.sin(7.0 * v) for v in values]
        assert found == pytest.approx(values, rel=1e-10, abs=1e-12)


def test_initial_values_lie_in_the_bounds_of_their_sources() -> None:
    network = CoordinateNetwork(KernelNetwork(hidden=200, omega=10.0), num_axes=2, num_values=50)
    first, second, last = network.layers
    bounds = {first: 1 / 2, second: math.sqrt(6 / 200) / 10, last: math.sqrt(3 / 200)}
    for layer, bound in bounds.items():
        assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= bound
    assert not last.bias.any() and 0.9 < float(first.bias.detach().abs().max()) <= 1.0
    plain = CoordinateNetwork(KernelNetwork(hidden=200, activation="relu"), num_axes=1, num_values=2).layers[0]
    kinks = (-plain.bias / plain.weight.flatten()).detach()
    assert float(kinks.abs().max()) <= 1.0 + 1e-5 and abs(float(kinks.mean())) < 0.2


def test_weight_norm_does_not_change_the_function_it_begins_with() -> None:
    plain, normed = (
        CoordinateNetwork(
            KernelNetwork(weight_norm=norm), num_axes=1, num_values=3, generator=torch.Generator().manual_seed(0)
        ).double()
        for norm in (False, True)
    )
    for network in (plain, normed):
        network.scale_output_(0.1)
    torch.testing.assert_close(plain(PLACES), normed(PLACES), rtol=1e-5, atol=1e-6)


def test_networks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 hidden unit and 2 layers, got 32 and 1"):
        KernelNetwork(num_layers=1)
    with pytest.raises(ValueError, match="is sine or relu, got 'tanh'"):
        KernelNetwork(activation="tanh")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="finite and positive, got 0"):
        KernelNetwork(omega=0)
