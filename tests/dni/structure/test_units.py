"""Does a network keep its function when units are copied, added and renewed, and do its gradients follow?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni import NewUnits, Origin, change_units, map_tensor, random_units
from tests.dni.structure.networks import KEYED, NETWORKS, changed, hidden_of, trained

TWICE = Origin.duplicate([1], num_old=4).then(Origin.duplicate([1], num_old=5))
"""A unit is copied, and one of its copies again: shares 1/4, 1/2, 1/4."""


def _gradients(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    parameters = dict(network.named_parameters())
    loss = network(x).tanh().square().sum()
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", NETWORKS)
def test_wider_network_is_the_same_function_and_its_gradients_are_the_mapped_ones(name: str, training: bool) -> None:
    network, x = trained(name)
    hidden = hidden_of(network)
    network.train(training)
    origins = [Origin.duplicate(range(4), num_old=4)]
    if not hidden.mixes_units:
        origins += [Origin.duplicate([1, 1, 3], num_old=4), TWICE]
    for origin in origins:
        wide, axes = changed(network, hidden, origin), hidden.axes(origin)
        torch.testing.assert_close(wide(x), network(x), rtol=0, atol=1e-12)
        gradients = _gradients(network, x)
        for own, gradient in _gradients(wide, x).items():
            expected = map_tensor(gradients[own], axes.get(own, ()), "gradient")
            torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-11)


def test_noise_tells_copies_apart_and_keeps_the_function() -> None:
    network, x = trained("flattened")
    origin = Origin.duplicate([2, 2, 0], num_old=4).then(Origin.append(1, num_old=7))
    wide = changed(network, hidden_of(network), origin, NewUnits(noise=0.5))
    torch.testing.assert_close(wide(x), network(x), rtol=0, atol=1e-12)
    incoming = _gradients(wide, x)["0.weight"]
    assert not torch.allclose(incoming[2], incoming[4]) and not torch.allclose(incoming[4], incoming[5])
    outgoing = wide.get_parameter("3.weight").unflatten(1, (8, 6))
    assert torch.equal(outgoing[:, 1], network.get_parameter("3.weight").unflatten(1, (4, 6))[:, 1]), "has no copy"
    assert len(random_units(4, 6, generator=KEYED("units"))) == 6


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "layer_norm"])
def test_growth_with_outgoing_weights_of_zero_keeps_the_function(name: str) -> None:
    network, x = trained(name)
    hidden = hidden_of(network)
    wide = changed(network, hidden, Origin.append(2, num_old=4))
    torch.testing.assert_close(wide(x), network(x), rtol=0, atol=1e-12)
    weight = wide.get_parameter("0.weight").detach()
    assert torch.equal(weight[:4], network.get_parameter("0.weight"))
    bound = weight[0].numel() ** -0.5
    assert 0.3 * bound < float(weight[4:].abs().mean()) and float(weight[4:].abs().max()) <= bound
    gradients = _gradients(wide, x)
    assert not gradients["0.weight"][4:].any()
    assert gradients["3.weight"].unflatten(1, (6, -1))[:, 4:].any(), "what is put out learns first"


def test_alpha_scales_what_new_units_add_and_numbers_belong_to_tensors() -> None:
    network, x = trained("mlp")
    hidden, origin = hidden_of(network), Origin.append(3, num_old=4)
    added = [changed(network, hidden, origin, NewUnits(alpha=alpha))(x) - network(x) for alpha in (0.25, 1.0)]
    torch.testing.assert_close(added[0], 0.25 * added[1], rtol=0, atol=1e-12)
    assert added[1].abs().max() > 1e-2
    first, second = (
        change_units(part, origin, NewUnits(alpha=1.0), keyed=KEYED)
        for part in (hidden, hidden_of(nn.Sequential(nn.Linear(9, 4), *network[1:3], network[3]).double()))
    )
    assert torch.equal(first["3.weight"].value, second["3.weight"].value)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["normed_mlp", "conv2d", "flattened"])
def test_units_that_begin_anew_in_their_place_are_drawn_afresh_and_heard_no_more(name: str) -> None:
    network, x = trained(name)
    hidden, origin = hidden_of(network), Origin.renew([0, 2], num_old=4)
    renewed = changed(network, hidden, origin)
    silent = changed(network, hidden, Origin.keep([1, 3], num_old=4))
    torch.testing.assert_close(renewed(x), silent(x), rtol=0, atol=1e-12)
    state, before = renewed.state_dict(), network.state_dict()
    for own, (start, rows) in {"1.weight": (1, [0, 2]), "1.bias": (0, [0, 2]), "0.weight": (None, [0, 2])}.items():
        assert start is None or (state[own][rows] == start).all()
        assert (state[own][rows] != before[own][rows]).all() and torch.equal(state[own][[1, 3]], before[own][[1, 3]])
    assert not state["3.weight"].unflatten(1, (4, -1))[:, [0, 2]].any()
    beside = changed(network, hidden, Origin.append(2, num_old=4))
    assert torch.equal(beside.get_parameter("0.weight")[4:], state["0.weight"][[0, 2]]), "as other new units"


def test_values_given_are_taken_and_what_does_not_fit_is_refused() -> None:
    network, x = trained("mlp")
    hidden, origin = hidden_of(network), Origin.append(1, num_old=4)
    given = {"0.weight": torch.ones(1, 5), "0.bias": torch.zeros(1), "3.weight": torch.full((3, 1), 2.0)}
    wide = changed(network, hidden, origin, given=given)
    torch.testing.assert_close(wide(x), network(x) + 2 * x.sum(1, keepdim=True).tanh(), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"the 1 new units must have values of \(1, 5\) in 0\.weight, got \(5,\)"):
        changed(network, hidden, origin, given={"0.weight": torch.ones(5)})
    with pytest.raises(ValueError, match=r"one axis, 0\.weight, 0\.bias, 3\.weight; got 1\.weight"):
        changed(network, hidden, origin, given={"1.weight": torch.ones(1)})
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], .* got 1\.5 and 0\.0"):
        NewUnits(alpha=1.5)
