"""Is what actions know of units what a loop over them finds?"""

from __future__ import annotations

import pytest
from torch import nn

from dni.events.unit_tensors import check_apart, incoming_norms, outgoing_norms, zero_biases
from tests.dni.events.stage import FakeStage, mlp


def test_norms_are_over_all_that_makes_a_unit_and_all_that_reads_it() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 6, 3)).double()
    units = FakeStage(network, readers={"0": ["3"]}, norms={"0": ["1"]}).units("0")
    for unit in range(4):
        made = sum(w**2 for w in network[0].weight[unit].flatten().tolist()) ** 0.5
        read = sum(abs(w) for row in network[3].weight.tolist() for w in row[6 * unit : 6 * unit + 6])
        assert float(incoming_norms(units)[unit]) == pytest.approx(made, rel=1e-12)
        assert float(outgoing_norms(units, "0")[unit]) == pytest.approx(read, rel=1e-12)
    assert {name: value.tolist() for name, value in zero_biases(units, 2).items()} == {"0.bias": [0.0, 0.0]}


def test_layers_with_units_in_common_are_refused() -> None:
    units = mlp(3, 4, 2).units("0")
    check_apart({"0": units})
    with pytest.raises(ValueError, match=r"0 and other both change axis 0 of 0\.weight: their outputs are added"):
        check_apart({"0": units, "other": units})


def test_units_that_nothing_reads_have_no_known_use() -> None:
    units = mlp(3, 4, 2).units("0")
    units.tensors = {name: own for name, own in units.tensors.items() if own[0].side == "producer"}
    with pytest.raises(ValueError, match=r"the use of 0's units is seen in what reads them, .* Use ReDo"):
        outgoing_norms(units, "0")
