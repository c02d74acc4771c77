"""Are all tensors found that follow the units of named layers, and is what cannot change refused?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dni import Hidden, Origin, outgoing_norm
from tests.dni.structure.networks import NETWORKS, changed, hidden_of, trained


def test_tensors_of_every_layer_that_follows_are_found() -> None:
    network, _ = trained("flattened")
    hidden = hidden_of(network)
    found = {name: (own.at.axis, own.side, own.at.block) for name, (own,) in hidden.tensors.items()}
    norm = {f"1.{own}": (0, "producer", 1) for own in ("weight", "bias", "running_mean", "running_var")}
    made = {"0.weight": (0, "producer", 1), "0.bias": (0, "producer", 1)}
    assert hidden.num_units == 4 and found == made | norm | {"3.weight": (1, "consumer", 6)}


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "layer_norm"])
def test_network_without_a_unit_is_the_network_whose_unit_is_silent(name: str) -> None:
    network, x = trained(name)
    hidden = hidden_of(network)
    small = changed(network, hidden, Origin.keep([0, 2, 3], num_old=4))
    columns = hidden.tensors["3.weight"][0].tensor.unflatten(1, (4, -1))
    columns[:, 1] = 0
    torch.testing.assert_close(small(x), network(x), rtol=0, atol=1e-12)
    first = small.get_submodule("0")
    assert 3 in (getattr(first, "out_features", None), getattr(first, "out_channels", None))


def test_outgoing_norm_adds_up_all_that_reads_a_unit() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 2), nn.Linear(24, 2))
    found = outgoing_norm(Hidden.of(network, producers=["0"], consumers=["1", "2"]))
    for unit in range(4):
        columns = network[1].weight[:, unit].abs().sum() + network[2].weight[:, 6 * unit : 6 * unit + 6].abs().sum()
        assert float(found[unit]) == pytest.approx(float(columns.detach()), rel=1e-6)
    with pytest.raises(ValueError, match="the 4 units must be read by a layer, found only "):
        outgoing_norm(Hidden(num_units=4, tensors={}))


def test_norms_over_units_let_copies_be_made_evenly_and_nothing_else() -> None:
    layer = hidden_of(trained("layer_norm")[0])
    layer.check_kept(Origin.duplicate(range(4), num_old=4))
    with pytest.raises(ValueError, match=r"got each of 4 between 1 and 2 times\. Copy all"):
        layer.check_kept(Origin.duplicate([1], num_old=4))
    with pytest.raises(ValueError, match="between 0 and 1 times"):
        layer.check_kept(Origin.keep([0, 1, 3], num_old=4))
    with pytest.raises(ValueError, match=r"got 1 new units for a layer of 4\. Copy every unit"):
        layer.check_kept(Origin.append(1, num_old=4))
    hidden_of(trained("normed_mlp")[0]).check_kept(Origin.append(1, num_old=4))
    network = nn.Sequential(nn.Linear(5, 4), nn.GroupNorm(2, 4), nn.ReLU(), nn.Linear(4, 3))
    group = hidden_of(network)
    group.axes(Origin.keep([1, 3], num_old=4))
    even = Origin(num_old=4, sources=(0, 1, 1, 0, 2, 3, 3, 2), scale=(0.5,) * 8)
    group.axes(even)
    group.check_kept(even)
    for origin in (Origin.keep([0, 1, 2], num_old=4), Origin.keep([0, 1], num_old=4)):
        with pytest.raises(ValueError, match=r"normalises the 4 units in 2 groups of neighbours, .* from \(0, 1"):
            group.axes(origin)


def test_what_cannot_change_by_itself_is_refused() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.LayerNorm(3), nn.Linear(5, 2))
    with pytest.raises(ValueError, match=r"no layer 'x' in the network; it has 0, 1, 2, 3, 4"):
        Hidden.of(network, producers=["x"], consumers=["2"])
    with pytest.raises(TypeError, match=r"1 must be one of Linear, Conv1d, .* it is a ReLU with no parameters"):
        Hidden.of(network, producers=["0"], consumers=["1"])
    with pytest.raises(ValueError, match=r"3 must read the 4 units, each as one entry or, .* it has 3"):
        Hidden.of(network, producers=["0"], consumers=["2"], norms=["3"])
    with pytest.raises(ValueError, match=r"got producers \['0'\] and consumers \[\]"):
        Hidden.of(network, producers=["0"], consumers=[])
    with pytest.raises(ValueError, match=r"4 must read the 4 units, .* it has 5"):
        Hidden.of(network, producers=["0"], consumers=["4"])
    with pytest.raises(
        ValueError, match=r"0 must compute units of 3 channels, .* its 4 channels are no runs of 1 units"
    ):
        Hidden.of(network, producers=["0"], consumers=["2"], unit_size=3)
    network[2].weight = network[0].weight
    with pytest.raises(ValueError, match=r"0\.weight and 2\.weight are tied"):
        Hidden.of(network, producers=["0"], consumers=["2"])
    with pytest.raises(ValueError, match="the layer has 4 units, the change is of 5"):
        hidden_of(trained("mlp")[0]).axes(Origin.identity(5))
