"""Are the numbers of a unit found where silencing them silences the unit?"""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from dni import UnitPlace


class _Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.side = nn.Conv2d(4, 3, 1)
        self.head = nn.Linear(4 * 5 * 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.norm(self.conv(x)).relu()
        y: Tensor = self.head(h.flatten(1)) + self.side(h).mean((2, 3))
        return y


PLACE = UnitPlace(layer="conv", readers=("side", "head"), norms=("norm",))


def _without(module: nn.Module, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value.masked_fill(masks[name], 0) if name in masks else value
        for name, value in module.state_dict().items()
    }


def test_columns_of_all_readers_are_those_through_which_a_unit_acts() -> None:
    torch.manual_seed(0)
    module, x = _Images().double().eval(), torch.randn(3, 2, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        module.norm.bias.add_(1.0)
        module.load_state_dict(_without(module, PLACE.read_by(module, [1, 3])))
        before = module(x)
        for name, mask in PLACE.made_by(module, [1, 3]).items():
            value = dict(module.named_parameters()) | dict(module.named_buffers())
            value[name][mask] += 5.0
        assert torch.equal(module(x), before), "nobody hears the two units any more"
        module.conv.weight[0] += 5.0
        assert not torch.equal(module(x), before)


def test_what_makes_a_unit_is_its_rows_and_its_normalisation() -> None:
    module = _Images()
    made = PLACE.made_by(module, [2])
    names = {"conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"}
    assert made.keys() == names and {name: int(mask.sum()) for name, mask in made.items()} == dict.fromkeys(
        names, 1
    ) | {"conv.weight": 18}
    assert PLACE.read_by(module, [2])["head.weight"].nonzero()[:, 1].unique().tolist() == list(range(50, 75))
    assert PLACE.num_units(module) == 4


def test_outgoing_norm_adds_up_all_that_reads_a_unit() -> None:
    module = _Images().double()
    found = PLACE.outgoing_norm(module)
    for unit in range(4):
        columns = (
            module.head.weight[:, unit * 25 : unit * 25 + 25].abs().sum() + module.side.weight[:, unit].abs().sum()
        )
        assert float(found[unit]) == pytest.approx(float(columns.detach()), rel=1e-13)


def test_heads_are_units_of_several_channels() -> None:
    module = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2))
    place = UnitPlace(layer="0", readers=("1",), unit_size=3)
    assert place.num_units(module) == 2
    assert place.made_by(module, [1])["0.bias"].tolist() == [False] * 3 + [True] * 3
    assert place.read_by(module, [1])["1.weight"][0].tolist() == [False] * 3 + [True] * 3
    assert place.outgoing_norm(module).tolist() == pytest.approx(
        [float(module[1].weight.detach()[:, part].abs().sum()) for part in (slice(0, 3), slice(3, 6))]
    )


def test_places_that_do_not_fit_are_refused_by_name() -> None:
    module = nn.Sequential(nn.Linear(3, 6), nn.Linear(7, 2), nn.Conv1d(6, 6, 1, groups=2), nn.BatchNorm1d(5))
    with pytest.raises(ValueError, match="there is no layer 'conv'; there are 0, 1, 2, 3"):
        UnitPlace(layer="conv", readers=()).num_units(module)
    with pytest.raises(ValueError, match="inputs for each of its 6 channels, but 1 has 7"):
        UnitPlace(layer="0", readers=("1",)).num_units(module)
    with pytest.raises(ValueError, match=r"without groups, .* but '2' is Conv1d"):
        UnitPlace(layer="2", readers=()).num_units(module)
    with pytest.raises(ValueError, match="of its 6 channels, but 3 is BatchNorm1d"):
        UnitPlace(layer="0", readers=(), norms=("3",)).num_units(module)
    with pytest.raises(ValueError, match="0 has 6 channels, which are no units of 4 each"):
        UnitPlace(layer="0", readers=(), unit_size=4).num_units(module)
    with pytest.raises(ValueError, match=re.escape("0 has units 0 to 5, there is no 6")):
        UnitPlace(layer="0", readers=()).made_by(module, [6])
