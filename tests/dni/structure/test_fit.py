"""Does a module take over tensors of other shapes wholly, or not at all?"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import convert_to_feedback_alignment, fit_, gate_
from tests.dni.structure.architectures import Attention


def _gated(layer: nn.Module) -> nn.Module:
    gate_(layer, [1], 0.25)
    return layer


OTHERS: dict[str, tuple[nn.Module, nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(3, 4), nn.Linear(5, 2), (2, 5)),
    "without bias": (nn.Linear(3, 4, bias=False), nn.Linear(5, 2, bias=False), (2, 5)),
    "conv1d": (nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(3, 5, 5, padding=2), (2, 3, 9)),
    "conv2d": (
        nn.Conv2d(2, 4, (3, 1), padding=(1, 0), dilation=(2, 3)),
        nn.Conv2d(3, 5, (5, 3), padding=(3, 3), dilation=(2, 3)),
        (2, 3, 9, 9),
    ),
    "conv3d": (nn.Conv3d(1, 2, 5, padding=2), nn.Conv3d(2, 2, 3, padding=1), (2, 2, 5, 5, 5)),
    "same": (nn.Conv2d(2, 2, 3, padding="same"), nn.Conv2d(2, 2, 5, padding="same"), (2, 2, 6, 6)),
    "valid": (nn.Conv2d(2, 2, 3, padding="valid"), nn.Conv2d(2, 2, 5, padding=1), (2, 2, 6, 6)),
    "circular": (
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 2, 5, padding=2, padding_mode="circular"),
        (2, 2, 6, 6),
    ),
    "grouped": (nn.Conv1d(4, 6, 3, groups=2), nn.Conv1d(6, 4, 3, groups=2), (2, 6, 7)),
    "depthwise": (nn.Conv1d(2, 4, 3, groups=2), nn.Conv1d(3, 6, 3, groups=3), (2, 3, 7)),
    "from one channel": (nn.Conv2d(1, 4, 3), nn.Conv2d(1, 6, 3), (2, 1, 4, 4)),
    "from one channel to more": (nn.Conv2d(1, 4, 3), nn.Conv2d(3, 4, 3), (2, 3, 4, 4)),
    "gated": (_gated(nn.Linear(3, 4)), _gated(nn.Linear(5, 2)), (2, 5)),
    "gated and grouped": (
        _gated(nn.Conv1d(4, 6, 3, groups=2)),
        _gated(nn.Conv1d(6, 4, 3, groups=2)),
        (2, 6, 7),
    ),
    "batch norm 1d": (nn.BatchNorm1d(3), nn.BatchNorm1d(5), (4, 5)),
    "batch norm 2d": (nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(5, affine=False), (2, 5, 3, 3)),
    "batch norm 3d": (
        nn.BatchNorm3d(3, track_running_stats=False),
        nn.BatchNorm3d(5, track_running_stats=False),
        (2, 5, 2, 2, 2),
    ),
    "layer norm": (nn.LayerNorm((3, 2), bias=False), nn.LayerNorm((4, 2), bias=False), (2, 4, 2)),
    "group norm": (nn.GroupNorm(2, 4), nn.GroupNorm(2, 6), (2, 6, 3)),
    "slopes": (nn.PReLU(3), nn.PReLU(5), (2, 5, 3)),
}
"""A layer, what it becomes, and a shape that the latter reads."""


def _stated(layer: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(layer).items() if not isinstance(value, dict | nn.Module)}


@pytest.mark.parametrize("name", OTHERS)
def test_layer_becomes_the_one_that_was_made_with_these_sizes(name: str) -> None:
    layer, other, shape = copy.deepcopy(OTHERS[name])
    drawn = torch.get_rng_state()
    fit_(layer, other.state_dict())
    assert torch.equal(torch.get_rng_state(), drawn), "nothing is drawn"
    assert _stated(layer) == _stated(other) and repr(layer) == repr(other)
    assert layer.state_dict().keys() == other.state_dict().keys()
    x = torch.randn(shape)
    for _ in range(2):  # with the statistics of the first, the second time
        assert torch.equal(layer(x), other(x))
        layer.eval()
        other.eval()


def _network() -> nn.Sequential:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    network[0].bias.requires_grad_(False)
    return network


def _wider() -> dict[str, Tensor]:
    other = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Sequential(nn.ReLU(), nn.Linear(6, 2)))
    return {name: tensor for name, tensor in other.state_dict().items() if name != "2.1.bias"}


def test_old_tensors_stay_what_they_were_for_what_still_computes_with_them() -> None:
    network, tensors = _network(), _wider()
    old = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    values = {name: tensor.detach().clone() for name, tensor in old.items()}
    loss = network(torch.randn(5, 3)).sum()
    values |= {name: buffer.clone() for name, buffer in network.named_buffers()}
    fit_(network, tensors)
    loss.backward()
    assert old["0.weight"].grad is not None and network[0].weight.grad is None
    new = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    assert new.keys() == old.keys() and all(torch.equal(old[name], values[name]) for name in old)
    for name, tensor in tensors.items():
        assert new[name] is not old[name] and torch.equal(new[name], tensor) and new[name].dtype == tensor.dtype
        assert new[name].data_ptr() != tensor.data_ptr()
        assert (
            new[name].requires_grad
            == old[name].requires_grad
            == (isinstance(new[name], nn.Parameter) and (name != "0.bias"))
        )
    assert new["2.1.bias"] is old["2.1.bias"]
    network(torch.randn(5, 3)).sum().backward()
    assert network[0].weight.grad is not None and network[0].weight.grad.shape == (6, 3)
    fit_(network, {"2.1.bias": torch.ones(2, dtype=torch.float64)})
    assert network[2][1].bias.dtype == torch.float64, "another type is a value too"


def test_feedback_of_a_layer_keeps_the_shape_of_its_weight() -> None:
    layer = nn.Sequential(nn.Linear(3, 4, bias=False))
    convert_to_feedback_alignment(layer, generator=torch.Generator())
    with pytest.raises(ValueError, match=r"0 \(_Linear\) .* its feedback must then be \(5, 3\), got \(4, 3\)"):
        fit_(layer, {"0.weight": torch.ones(5, 3)})
    fit_(layer, {"0.weight": torch.ones(5, 3), "0.feedback": torch.ones(5, 3)})
    assert layer(torch.ones(1, 3)).shape == (1, 5)


def test_module_sets_itself_what_follows_from_sizes() -> None:
    module, other = (Attention(width=6, num_heads=heads) for heads in (4, 3))
    fit_(module, other.state_dict())
    x = torch.randn(2, 7, 6)
    assert module.num_heads == 3 and torch.equal(module(x), other(x))


class _Scales(nn.Module):
    """A kind that nobody knows, which says that it follows."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.size = nn.Parameter(torch.ones(4)), 4

    def fit_units_(self) -> None:
        self.size = len(self.scale)
        if self.size == 6:
            raise RuntimeError("never six scales")


def test_layer_of_an_unknown_kind_follows_if_it_knows_of_it() -> None:
    layer = _Scales()
    fit_(layer, {"scale": torch.ones(5)})
    assert layer.size == 5 == len(layer.scale)


class _Stubborn(nn.Linear):
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "out_features" and value == 6:
            raise RuntimeError("never six")
        super().__setattr__(name, value)


def _tied() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    return network


REFUSED: dict[str, tuple[nn.Module, dict[str, Tensor], str]] = {
    "unknown": (_network(), {"0.weight": torch.ones(4, 3), "x": torch.ones(1)}, r"no tensor 'x' .* it has 0\.weight"),
    "tied": (_tied(), {"0.bias": torch.ones(4), "0.weight": torch.ones(4, 4)}, r"0\.weight and 1\.weight are tied"),
    "gate": (
        _gated(nn.Linear(3, 4)),
        {"weight": torch.ones(4, 5)},
        r"its unit_gate must then be \(5,\), got \(3,\)",
    ),
    "sizes": (_Scales(), {"scale": torch.ones(6)}, "never six scales"),
    "half": (_network(), {"0.weight": torch.ones(6, 3)}, r"0 \(Linear\) .* bias must then be \(6,\), got \(4,\)"),
    "integer": (_network(), {"0.weight": torch.ones(4, 3).int()}, r"0\.weight learns, .* floating point, got .*int32"),
    "kind": (nn.Sequential(nn.Embedding(3, 4)), {"0.weight": torch.ones(5, 4)}, r"0 \(Embedding\) .* known of Linear"),
    "axes": (_network(), {"0.weight": torch.ones(4)}, r"0 \(Linear\) cannot change weight \(4, 3\) to \(4,\)"),
    "groups": (nn.GroupNorm(2, 4), {"weight": torch.ones(5), "bias": torch.ones(5)}, "the module .* divisible"),
    "odd kernel": (nn.Conv1d(1, 1, 3), {"weight": torch.ones(1, 1, 4)}, "by as much on both sides"),
    "cut kernel": (nn.Conv1d(1, 1, 5), {"weight": torch.ones(1, 1, 3)}, r"its padding \(0,\) would be \(-1,\)"),
    "failing": (
        nn.Sequential(nn.Linear(2, 6), _Stubborn(6, 4)),
        {"0.weight": torch.ones(5, 2), "0.bias": torch.ones(5), "1.weight": torch.ones(6, 5), "1.bias": torch.ones(6)},
        "never six",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_or_fails_leaves_the_module_as_it_was(case: str) -> None:
    module, tensors, message = REFUSED[case]
    before = [(layer, dict(layer._parameters), dict(layer._buffers), _stated(layer)) for layer in module.modules()]
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        fit_(module, tensors)
    for layer, parameters, buffers, stated in before:
        assert all(layer._parameters[name] is own for name, own in parameters.items())
        assert all(layer._buffers[name] is own for name, own in buffers.items())
        assert _stated(layer) == stated
