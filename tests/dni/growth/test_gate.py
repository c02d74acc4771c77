"""Does a gate scale what a layer reads, follow copies and checkpoints, and fold away?"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dni import Component, attach_, fit_gates_, fold_, gate_, without_gates
from tests.dni.structure.networks import trained

READERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "linear": (lambda: nn.Linear(4, 3), (5, 4), -1),
    "linear on sequences": (lambda: nn.Linear(4, 3), (2, 5, 4), -1),
    "conv1d": (lambda: nn.Conv1d(4, 3, 3, padding=1), (2, 4, 6), -2),
    "conv2d": (lambda: nn.Conv2d(4, 3, 3, stride=2, bias=False), (2, 4, 6, 5), -3),
    "conv2d without batch": (lambda: nn.Conv2d(4, 3, 3), (4, 6, 5), -3),
    "conv3d": (lambda: nn.Conv3d(4, 3, 2), (2, 4, 3, 3, 3), -4),
    "grouped": (lambda: nn.Conv1d(4, 6, 3, groups=2), (2, 4, 6), -2),
    "by channel": (lambda: nn.Conv2d(4, 4, 3, groups=4), (2, 4, 6, 5), -3),
}


def _scaled(x: Tensor, axis: int, alpha: float) -> Tensor:
    """x with entries 1 and 3 times alpha."""
    factors = torch.tensor([1, alpha, 1, alpha], dtype=x.dtype)
    return (x.movedim(axis, -1) * factors).movedim(-1, axis)


@pytest.mark.parametrize("name", READERS)
def test_gated_layer_reads_scaled_entries_and_its_fold_puts_out_the_same(name: str) -> None:
    make, shape, axis = READERS[name]
    plain, x = make().double(), torch.randn(shape, dtype=torch.float64)
    layer = copy.deepcopy(plain)
    gate_(layer, [1, 3], 0.3)
    before = layer(x)
    torch.testing.assert_close(before, plain(_scaled(x, axis, 0.3)), rtol=0, atol=0)
    exported = make().double()
    exported.load_state_dict(without_gates(layer.state_dict()))
    torch.testing.assert_close(exported(x), before, rtol=0, atol=1e-12)
    fold_(layer)
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-12)
    assert layer.state_dict().keys() == plain.state_dict().keys() and not layer._forward_pre_hooks


def test_gate_that_is_open_goes_without_a_trace() -> None:
    network, x = trained("conv2d")
    before, weight = network(x), network[3].weight.detach().clone()
    version = network[3].weight._version
    gate_(network[3], [1, 2], 0.5)
    gate_(network[3], [1, 2], 1.0)
    assert torch.equal(network(x), before)
    fold_(network[3])
    assert torch.equal(network(x), before) and torch.equal(network[3].weight, weight)
    assert network[3].weight._version == version, "nothing was written into what microbatches may hold"
    assert "3.unit_gate" not in network.state_dict() and not network[3]._forward_pre_hooks


def test_part_of_a_gate_is_folded_and_the_rest_stays() -> None:
    layer, x = nn.Linear(4, 2).double(), torch.randn(3, 4, dtype=torch.float64)
    gate_(layer, [0], 0.25)
    gate_(layer, [2, 3], 0.5)
    before = layer(x)
    fold_(layer, [2, 3])
    assert layer.state_dict()["unit_gate"].tolist() == [0.25, 1, 1, 1]
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-12)
    fold_(layer, [0])
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-12)
    assert len(layer._forward_pre_hooks) == 0
    fold_(layer)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_gradients_of_what_is_gated_are_those_without_a_gate_times_alpha(alpha: float) -> None:
    network, x = trained("mlp")
    plain = copy.deepcopy(network)
    gate_(network[3], [1, 3], alpha)
    error = torch.randn(7, 3, dtype=torch.float64)
    network(x).backward(error)
    plain(x).backward(error)
    for name, axis in (("0.weight", 0), ("0.bias", 0), ("3.weight", 1)):
        found, wanted = network.get_parameter(name).grad, plain.get_parameter(name).grad
        assert found is not None and wanted is not None
        torch.testing.assert_close(found, _scaled(wanted, axis, alpha), rtol=0, atol=1e-12)
    assert not network[3].unit_gate.requires_grad and "unit_gate" not in dict(network[3].named_parameters())


def test_microbatch_on_its_way_keeps_the_gate_of_its_forward() -> None:
    network, x = trained("mlp")
    gate_(network[3], [1], 0.3)
    twin, on_its_way = copy.deepcopy(network), network(x).sum()
    gate_(network[3], [1], 0.6)
    on_its_way.backward()
    twin(x).sum().backward()
    for own, other in zip(network.parameters(), twin.parameters(), strict=True):
        assert own.grad is not None and other.grad is not None and torch.equal(own.grad, other.grad)


def test_copy_has_a_gate_of_its_own() -> None:
    network, x = trained("conv1d")
    gate_(network[3], [1], 0.3)
    before, other = network(x), copy.deepcopy(network)
    assert torch.equal(other(x), before)
    gate_(other[3], [1], 0.9)
    assert torch.equal(network(x), before) and not torch.equal(other(x), before)
    fold_(other[3])
    assert torch.equal(network(x), before) and len(network[3]._forward_pre_hooks) == 1


def test_functional_call_reads_through_the_gate_that_it_is_given() -> None:
    network, x = trained("mlp")
    gate_(network[3], [1], 0.3)
    before = network(x)
    other = copy.deepcopy(network)
    gate_(other[3], [1, 2], 0.7)
    found = torch.func.functional_call(network, {"3.unit_gate": other[3].unit_gate}, (x,))
    assert torch.equal(found, other(x)) and torch.equal(network(x), before)


def test_network_of_a_checkpoint_gets_exactly_its_gates() -> None:
    network, x = trained("flattened")
    fresh, stale = copy.deepcopy(network), copy.deepcopy(network)
    gate_(network[3], [0, 1, 2], 0.3)
    gate_(stale[0], [0], 0.5)
    saved = network.state_dict()
    for other in (fresh, stale):
        with pytest.raises(RuntimeError, match=r"3\.unit_gate"):
            other.load_state_dict(saved)
        fit_gates_(other, saved.keys())
        other.load_state_dict(saved)
        assert other.state_dict().keys() == saved.keys() and torch.equal(other(x), network(x))
        assert len(other[3]._forward_pre_hooks) == 1 and not other[0]._forward_pre_hooks
    alone = nn.Linear(2, 2)
    fit_gates_(alone, {"unit_gate", "weight"})
    assert alone.state_dict()["unit_gate"].tolist() == [1, 1]


def test_component_beside_a_layer_reads_through_its_gate_and_is_folded_with_it() -> None:
    network, x = trained("conv1d")
    attach_(network, Component(layer="3", units=2, alpha=1.0), lambda name: torch.Generator().manual_seed(3))
    gate_(network[3], [0, 2], 0.3)
    before, saved = network(x), network.state_dict()
    twin = copy.deepcopy(network)
    twin.load_state_dict({**saved, "3.unit_gate": torch.ones(4).double()})
    hidden = _scaled_channels(network[:3](x))
    torch.testing.assert_close(twin[3](hidden), before, rtol=0, atol=1e-12)
    exported = copy.deepcopy(twin)
    fit_gates_(exported, ())
    exported.load_state_dict(without_gates(saved))
    torch.testing.assert_close(exported(x), before, rtol=0, atol=1e-12)
    fold_(network[3])
    torch.testing.assert_close(network(x), before, rtol=0, atol=1e-12)


def _scaled_channels(h: Tensor) -> Tensor:
    return h * torch.tensor([0.3, 1, 0.3, 1], dtype=h.dtype).view(-1, 1)


def test_gates_that_cannot_be_are_refused() -> None:
    layer = nn.Linear(3, 2)
    with pytest.raises(TypeError, match=r"of kind Linear, Conv1d, Conv2d, Conv3d, got ConvTranspose2d"):
        gate_(nn.ConvTranspose2d(2, 2, 3), [0], 0.5)
    with pytest.raises(TypeError, match="got NonDynamicallyQuantizableLinear"):
        gate_(nn.MultiheadAttention(4, 2).out_proj, [0], 0.5)
    with pytest.raises(ValueError, match="alpha must lie in"):
        gate_(layer, [0], 1.5)
    with pytest.raises(ValueError, match=r"has factors 0 to 2, got entries \[3, -1\]"):
        gate_(layer, [3, 0, -1], 0.5)
    assert "unit_gate" not in layer.state_dict()
    with pytest.raises(ValueError, match=r"but 1\.unit_gate, 2\.unit_gate would not"):
        fit_gates_(nn.Sequential(layer, nn.ReLU()), ["0.unit_gate", "1.unit_gate", "2.unit_gate"])
    assert "unit_gate" not in layer.state_dict()
    gate_(layer, [0], 0.5)
    with pytest.raises(TypeError, match="must be called as layer"):
        layer(input=torch.ones(1, 3))
