"""Are tensors and modules of a stage found by their names in the whole network, and the other way round?"""

from __future__ import annotations

from torch import nn

from pipeline import partition
from pipeline.learners.naming import Naming


def _network() -> nn.Sequential:
    body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8))
    return nn.Sequential(body, nn.Linear(8, 8), *(nn.Identity() for _ in range(8)), nn.Linear(8, 3))


def test_names_of_every_stage_are_those_of_the_unsplit_model() -> None:
    model = _network()
    cut = partition(model, at=["0.2", "1"])
    found = {}
    for module, prefixes in zip(cut.stages, cut.prefixes, strict=True):
        naming = Naming(prefixes)
        for local, full in naming.of(module).items():
            assert naming.full(local) == full and naming.local(full) == local
            found[full] = module.state_dict()[local]
    assert found.keys() == model.state_dict().keys()
    assert all(found[name].data_ptr() == value.data_ptr() for name, value in model.state_dict().items())


def test_modules_are_found_with_parameters_and_without_and_in_their_stage_only() -> None:
    cut = partition(_network(), at=["0.2", "1"])
    namings = [Naming(prefixes) for prefixes in cut.prefixes]

    def holders(name: str) -> list[int]:
        return [
            index
            for index, (naming, stage) in enumerate(zip(namings, cut.stages, strict=True))
            if naming.has(stage, name)
        ]

    assert [holders(name) for name in ("0.0", "0.1", "0.3", "1", "10", "5")] == [[0], [0], [1], [2], [2], [2]]
    assert holders("0") == [0, 1], "a module whose layers two stages share"
    assert holders("0.4") == [] and holders("11") == [] and holders("") == []
    local = namings[2].local("10")
    assert local is not None and cut.stages[2].get_submodule(local).out_features == 3
    assert namings[2].full(local) == "10"
    assert namings[0].local("1") is None, "the name of another layer that begins alike"


def test_names_that_begin_alike_are_not_confused() -> None:
    naming = Naming((("0.", "layer.1."), ("1.", "layer.10.")))
    assert naming.full("0.weight") == "layer.1.weight" and naming.full("1.weight") == "layer.10.weight"
    assert naming.local("layer.10.weight") == "1.weight" and naming.local("layer.1") == "0"
    assert naming.local("layer.100.weight") is None and naming.local("layer") is None


def test_stage_that_is_one_layer_or_the_whole_network_has_names_too() -> None:
    layer = nn.Linear(3, 3)
    alone = Naming((("", "2."),))
    assert alone.of(layer) == {"weight": "2.weight", "bias": "2.bias"}
    assert (alone.full(""), alone.local("2")) == ("2", "") and alone.has(layer, "2") and not alone.has(layer, "1")
    whole = Naming((("", ""),))
    assert whole.of(layer) == {"weight": "weight", "bias": "bias"} and whole.full("weight") == "weight"
