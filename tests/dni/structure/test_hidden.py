"""Are all tensors found that follow the units of a hidden layer, and is what cannot change refused?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dni import Hidden, Origin, keep_units
from tests.dni.structure.networks import NETWORKS, hidden_of, rebuilt, trained


def test_tensors_of_every_layer_that_follows_are_found() -> None:
    network, _ = trained("flattened")
    hidden = hidden_of(network)
    found = {name: (own.axis, own.side, own.block) for name, own in hidden.tensors.items()}
    norm = {f"1.{own}": (0, "producer", 1) for own in ("weight", "bias", "running_mean", "running_var")}
    made = {"0.weight": (0, "producer", 1), "0.bias": (0, "producer", 1)}
    assert hidden.num_units == 4 and found == made | norm | {"3.weight": (1, "consumer", 6)}


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "layer_norm"])
def test_network_without_a_unit_is_the_network_whose_unit_is_silent(name: str) -> None:
    network, x = trained(name)
    hidden = hidden_of(network)
    small = rebuilt(network, keep_units(hidden, [0, 2, 3]))
    columns = hidden.tensors["3.weight"].tensor.unflatten(1, (4, -1))
    columns[:, 1] = 0
    torch.testing.assert_close(small(x), network(x), rtol=0, atol=1e-12)
    first = small.get_submodule("0")
    assert 3 in (getattr(first, "out_features", None), getattr(first, "out_channels", None))


def test_what_cannot_change_by_itself_is_refused() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Conv2d(4, 4, 1, groups=2), nn.LayerNorm(3))
    with pytest.raises(ValueError, match=r"no layer 'x' in the network; it has 0, 1, 2, 3, 4"):
        Hidden.of(network, producer="x", consumers=["2"])
    with pytest.raises(TypeError, match=r"1 must be one of Linear, Conv1d, Conv2d .* got ReLU"):
        Hidden.of(network, producer="0", consumers=["1"])
    with pytest.raises(ValueError, match="3 has 2 groups of 2 channels each"):
        Hidden.of(network, producer="0", consumers=["3"])
    with pytest.raises(ValueError, match=r"4 must normalise the 4 units along its first axis, it is of \(3,\)"):
        Hidden.of(network, producer="0", consumers=["2"], norms=["4"])
    with pytest.raises(ValueError, match="must be read by a layer, got no consumers"):
        Hidden.of(network, producer="0", consumers=[])
    other = nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"must read the 3 units, .* its weight \(2, 4\) reads 4"):
        Hidden.of(other, producer="0", consumers=["1"])
    network[2].weight = network[0].weight
    with pytest.raises(ValueError, match=r"0\.weight and 2\.weight are tied"):
        Hidden.of(network, producer="0", consumers=["2"])
    with pytest.raises(ValueError, match="of 5 indices, but axis 0"):
        hidden_of(trained("mlp")[0]).follow(Origin.identity(5))
