"""Do whole new parts leave the function and the names as they were, and can they be built again?"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dni import (
    Component,
    Edit,
    Insertion,
    LinearRamp,
    Phase,
    apply_edits_,
    attach_,
    component_ends,
    edits_from_json,
    edits_to_json,
    fit_gates_,
    without_gates,
)
from tests.dni.structure.networks import trained

PLACES: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "linear": ("mlp", "3", ()),
    "conv1d": ("conv1d", "3", ()),
    "strided": ("conv2d", "0", ()),
    "another kernel": ("conv2d", "3", (1, 5)),
}


def _keyed(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(sum(map(ord, name)))


@pytest.mark.parametrize("place", PLACES)
def test_component_adds_what_it_computes_and_nothing_at_alpha_0(place: str) -> None:
    kind, layer, kernel = PLACES[place]
    network, x = trained(kind)
    network.eval()
    names, parameters, before = set(network.state_dict()), dict(network.named_parameters()), network(x)
    shut, plain = copy.deepcopy(network), copy.deepcopy(network)
    attach_(shut, Component(layer=layer, units=2, kernel=kernel), _keyed)
    assert torch.equal(shut(x), before)
    child = attach_(network, Component(layer=layer, units=2, kernel=kernel, activation="tanh", alpha=0.5), _keyed)
    assert child == f"{layer}.component"
    assert names <= set(network.state_dict())
    assert all(network.get_parameter(name) is own for name, own in parameters.items())
    assert set(network.state_dict()) - names == {f"{child}.{own}" for own in ("0.weight", "0.bias", "2.weight")}
    component = network.get_submodule(child)
    h = plain[: int(layer)](x)
    y = plain[int(layer)](h) + component(h)
    assert torch.equal(network(x), plain[int(layer) + 1 :](y)) and not torch.equal(network(x), before)
    twin = copy.deepcopy(shut).get_parameter(f"{child}.0.weight")
    assert torch.equal(twin, network.get_parameter(f"{child}.0.weight")), "drawn by name"
    assert component_ends(network[int(layer)]) == [("component.0", "component.2")]


def test_component_stands_beside_a_grouped_convolution_with_another_kernel_and_the_same_padding() -> None:
    layer = nn.Conv2d(4, 6, 3, groups=2, padding="same").double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    network, plain = nn.Sequential(layer), copy.deepcopy(layer)
    attach_(network, Component(layer="0", units=3, kernel=(5, 1), alpha=1.0), _keyed)
    incoming, outgoing = (network.get_parameter(f"0.component.{own}.weight") for own in (0, 2))
    bias = network.get_parameter("0.component.0.bias")
    beside = F.conv2d(F.conv2d(x, incoming, bias, padding=(2, 0)).relu(), outgoing)
    torch.testing.assert_close(network(x), plain(x) + beside, rtol=0, atol=1e-12)


def test_component_is_phased_in_by_the_gate_of_its_outgoing_layer() -> None:
    network, x = trained("conv1d")
    plain = copy.deepcopy(network)
    edit = Component(layer="3", units=3, alpha=1.0)
    child = attach_(network, edit, _keyed)
    phase = Phase(event="grow", gates=edit.gates(child), ramp=LinearRamp(num_steps=4))
    component = copy.deepcopy(network[3].component)
    phase.open_(network)
    assert torch.equal(network(x), plain(x))
    phase = phase.advanced(None)
    phase.open_(network)
    h = plain[:3](x)
    torch.testing.assert_close(network(x), plain(x) + 0.25 * component(h), rtol=0, atol=1e-12)
    exported = trained("conv1d")[0]
    attach_(exported, edit, _keyed)
    exported.load_state_dict(without_gates(network.state_dict()))
    torch.testing.assert_close(exported(x), network(x), rtol=0, atol=1e-12)
    for _ in range(3):
        phase = phase.advanced(None)
    phase.open_(network)
    assert "3.component.2.unit_gate" not in network.state_dict()
    assert torch.equal(network(x), plain[3](h) + component(h))


@pytest.mark.parametrize(
    ("kind", "units", "kernel"),
    [("normed_mlp", 4, ()), ("conv1d", 4, (3,)), ("conv2d", 4, (3, 1)), ("conv2d", 4, (1, 1))],
)
def test_inserted_layer_keeps_the_function_behind_an_activation(kind: str, units: int, kernel: tuple[int, ...]) -> None:
    network, x = trained(kind)
    before, plain = network(x), copy.deepcopy(network)
    child = attach_(network, Insertion(behind="2", units=units, kernel=kernel), _keyed)
    assert child == "2.inserted" and torch.equal(network(x), before)
    with torch.no_grad():
        network.get_parameter("2.inserted.0.weight").add_(0.1)
    plain(x)  # its norm has seen as much
    inserted = copy.deepcopy(network[2].inserted[0])
    wanted = plain[3](inserted(plain[:3](x)).relu())
    torch.testing.assert_close(network(x), wanted, rtol=0, atol=1e-12)
    network(x).sum().backward()
    gradient = network.get_parameter("2.inserted.0.weight").grad
    assert gradient is not None and bool(gradient.any())


def _edits() -> tuple[Edit, ...]:
    return (
        Component(layer="0", units=2, alpha=1.0),
        Component(layer="0", units=3, activation="gelu", alpha=0.5),
        Insertion(behind="2", units=4, kernel=(3, 3)),
        Component(layer="2.inserted.0", units=1, alpha=1.0),
        Insertion(behind="2", units=4, kernel=(1, 1)),
    )


def test_network_is_built_again_from_its_edits_its_gates_and_its_tensors() -> None:
    network, x = trained("conv2d")
    fresh = copy.deepcopy(network)
    apply_edits_(network, _edits(), _keyed)
    twin = copy.deepcopy(fresh)
    apply_edits_(twin, _edits(), _keyed)
    for name, value in network.state_dict().items():
        assert torch.equal(twin.state_dict()[name], value), "replicas agree"
    assert {"0.component2.2.weight", "2.inserted2.0.bias", "2.inserted.0.component.0.weight"} <= set(twin.state_dict())
    Phase(event="grow", gates={"0.component2.2": (0, 1, 2)}, ramp=LinearRamp(num_steps=2)).advanced(None).open_(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    saved = network.state_dict()
    apply_edits_(fresh, edits_from_json(edits_to_json(_edits())), lambda name: torch.Generator())
    fit_gates_(fresh, saved.keys())
    fresh.load_state_dict(saved)
    assert list(fresh.state_dict()) == list(saved)
    assert torch.equal(fresh(x), network(x))


def test_copies_and_functional_calls_use_their_own_parts() -> None:
    network, x = trained("conv2d")
    apply_edits_(network, _edits(), _keyed)
    network.eval()
    before, other = network(x), copy.deepcopy(network)
    assert torch.equal(other(x), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(network(x), before) and not torch.equal(other(x), before)
    found = torch.func.functional_call(network, dict(other.named_parameters()), (x,))
    assert torch.equal(found, other(x)) and torch.equal(network(x), before)


def test_parts_are_in_the_mode_and_the_precision_of_the_network_and_draw_nothing_of_torch() -> None:
    network, _ = trained("conv2d")
    network.eval()
    before = torch.get_rng_state()
    apply_edits_(network, _edits(), _keyed)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in network.modules())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}


def test_parts_that_do_not_fit_are_refused_and_leave_the_network_as_it_was() -> None:
    network, _ = trained("conv2d")
    names = list(network.state_dict())
    shared = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="there is no layer '7' to attach to; the network has 0, 1, 2, 3"):
        attach_(network, Component(layer="7", units=1), _keyed)
    with pytest.raises(TypeError, match="beside 1, which is BatchNorm2d"):
        attach_(network, Component(layer="1", units=1), _keyed)
    with pytest.raises(TypeError, match=r"got kernel \(3,\) beside 0, which is Linear"):
        attach_(nn.Sequential(shared), Component(layer="0", units=1, kernel=(3,)), _keyed)
    with pytest.raises(ValueError, match=r"as many sizes as that of 0, \(3, 3\), got \(3,\)"):
        attach_(network, Component(layer="0", units=1, kernel=(3,)), _keyed)
    with pytest.raises(ValueError, match=r"would need a padding of \[-1\.0, 0\.5\]"):
        attach_(network, Component(layer="0", units=1, kernel=(1, 4)), _keyed)
    with pytest.raises(ValueError, match="0 and 1 are one module"):
        attach_(nn.Sequential(shared, shared), Component(layer="0", units=1), _keyed)
    with pytest.raises(TypeError, match="one of ReLU, ReLU6, Identity; 1 is Tanh"):
        attach_(nn.Sequential(shared, nn.Tanh()), Insertion(behind="1", units=2), _keyed)
    assert list(network.state_dict()) == names and not any(module._forward_hooks for module in network.modules())
    attach_(network, Component(layer="0", units=1), _keyed)
    with pytest.raises(TypeError, match="must be called as layer"):
        network[0](input=torch.ones(1, 2, 9, 9).double())
