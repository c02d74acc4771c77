"""What does each kind of layer hold of its units, and which kinds are refused?"""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from dni import Hidden, Origin
from tests.dni.structure.networks import changed


def _through(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 1), norm, nn.Conv2d(4, 3, 1))


def _hidden(network: nn.Module) -> Hidden:
    return Hidden.of(network, producers=["0"], consumers=["2"], norms=["1"])


def test_slopes_and_gates_are_of_units_and_begin_at_what_torch_and_an_open_gate_have() -> None:
    network = _through(nn.PReLU(4, init=0.7))
    network[2].register_buffer("unit_gate", torch.full((4,), 0.5))
    wide = changed(network, _hidden(network), Origin.append(1, num_old=4))
    assert wide.get_parameter("1.weight").tolist() == pytest.approx([0.7] * 4 + [0.25])
    assert wide.get_buffer("2.unit_gate").tolist() == [0.5] * 4 + [1.0]
    halved = changed(network, _hidden(network), Origin.duplicate([0], num_old=4))
    assert halved.get_buffer("2.unit_gate").tolist() == [0.5] * 5, "a gate is copied; the weight is shared out"
    single = Hidden.of(_through(nn.PReLU()), producers=["0"], consumers=["2"])
    assert single.tensors.keys() == {"0.weight", "0.bias", "2.weight"}


class _Scaled(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)
        self.scale = nn.Parameter(torch.ones(4))


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (nn.LSTM(4, 4), TypeError, "1 must be one of BatchNorm1d, .* it is a LSTM with weight_ih_l0 (16, 4)"),
        (nn.MultiheadAttention(4, 2), TypeError, "it is a MultiheadAttention with in_proj_weight (12, 4)"),
        (nn.Embedding(4, 4), TypeError, "it is a Embedding with weight (4, 4)"),
        (nn.LayerNorm(4, elementwise_affine=False), ValueError, "1 normalises (4,) and has no weight to follow its 4"),
        (nn.BatchNorm2d(3), ValueError, "1 must read the 4 units, .* it has 3"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_layers_that_cannot_pass_the_units_are_refused_by_name_and_size(
    layer: nn.Module, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message).replace(r"\.\*", ".*")):
        _hidden(_through(layer))


def test_layers_that_cannot_compute_or_read_units_are_refused_by_name_and_size() -> None:
    spread = nn.Sequential(nn.Conv2d(2, 6, 1), nn.GroupNorm(4, 12), nn.Conv2d(6, 3, 1))
    with pytest.raises(ValueError, match=r"in each of its 4 groups, .* has 12 channels for 6 units of 2"):
        _hidden(spread)
    network = nn.Sequential(nn.Linear(4, 4), _Scaled(), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 3, groups=4))
    with pytest.raises(TypeError, match=r"1 must be .* a _Scaled with weight \(4, 4\), bias \(4,\), scale \(4,\)"):
        Hidden.of(network, producers=["1"], consumers=["0"])
    with pytest.raises(ValueError, match="2 has 2 groups of 2 channels each, from 4 to 4"):
        Hidden.of(network, producers=["0"], consumers=["2"])
    with pytest.raises(ValueError, match="3 is depthwise, so it passes units on and reads none"):
        Hidden.of(network, producers=["0"], consumers=["3"])
    network[0].register_buffer("unit_gate", torch.ones(3))
    with pytest.raises(ValueError, match=r"0\.unit_gate must have one number for each of the 4 .* got \(3,\)"):
        Hidden.of(network, producers=["3"], consumers=["0"])
