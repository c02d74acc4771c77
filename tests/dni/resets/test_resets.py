"""Do resets change what they say, exactly, and leave the function and the others alone where they must?"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dni import (
    ReDo,
    RunningScores,
    UnitPlace,
    UnitReset,
    fresh_values,
    overwrite_,
    recycle_units_,
    score_dormancy,
    score_unit_activity,
    whole_layers,
)
from pipeline.randomness.keyed import generator

KEYED = partial(generator, 0, step=0)
PLACES = (UnitPlace(layer="0", readers=("2",)), UnitPlace(layer="2", readers=("4",)))


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    with torch.no_grad():
        module[0].bias[1] = -100.0  # it is silent on every input below
    return module


def _learn(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    drawn = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.randn(8, 3, generator=drawn, dtype=torch.float64)).square().mean().backward()
        optimizer.step()


def test_redo_finds_what_is_dormant_by_hand_and_recycles_it_without_a_change_of_the_output() -> None:
    module = _network()
    x = torch.randn(16, 3, dtype=torch.float64)
    scores = RunningScores()
    for part in x.split(10):
        scores.add({"0": score_unit_activity(module[1](module[0](part)), num_units=4)}, num_samples=len(part))
    dormancy = {"0": score_dormancy(scores.means()["0"])}
    h = module[1](module[0](x)).tolist()
    activity = [sum(abs(row[unit]) for row in h) / 16 for unit in range(4)]
    assert dormancy["0"].tolist() == pytest.approx([a / (sum(activity) / 4) for a in activity], rel=1e-13)

    plan = ReDo(threshold=0.025).plan(dormancy)
    assert plan.units == {"0": (1,)} and str(plan) == "ReDo(threshold=0.025) recycles 0: 1"
    before, output = {name: value.clone() for name, value in module.state_dict().items()}, module(x)
    recycle_units_(module, PLACES, plan, keyed=KEYED, optimizer=None)
    after = module.state_dict()
    fresh = fresh_values(nn.Linear(3, 4).double(), lambda _: KEYED("0"))
    assert torch.equal(after["0.weight"][1], fresh["weight"][1]) and float(after["0.bias"][1]) == 0.0
    assert not after["2.weight"][:, 1].any()
    rest = torch.tensor([0, 2, 3])
    for name in before:
        cut = {"0.weight": (rest,), "0.bias": (rest,), "2.weight": (slice(None), rest)}.get(name, (slice(None),))
        assert torch.equal(after[name][cut], before[name][cut])
    torch.testing.assert_close(module(x), output, rtol=0, atol=1e-12)
    assert float(module[1](module[0](x)).detach()[:, 1].abs().mean()) > 0.01, (
        "it is heard no more, but it is no longer silent"
    )


@pytest.mark.parametrize("memory", ["keep", "zero moments", "zero moments and step"])
def test_moments_of_all_that_is_recycled_are_treated_as_asked(memory: str) -> None:
    module = _network()
    optimizer = torch.optim.Adam(module.parameters())
    _learn(module, optimizer, 3)
    old = {p: {key: value.clone() for key, value in optimizer.state[p].items()} for p in module.parameters()}
    plan = UnitReset(rule="test", units={"0": (2,), "2": (0, 4)})
    recycle_units_(module, PLACES, plan, keyed=KEYED, optimizer=optimizer, memory=memory)  # type: ignore[arg-type]
    changed = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in module.named_parameters()}
    changed["0.weight"][2] = changed["0.bias"][2] = True
    changed["2.weight"][:, 2] = changed["2.weight"][[0, 4]] = changed["2.bias"][[0, 4]] = True
    changed["4.weight"][:, [0, 4]] = True
    for name, parameter in module.named_parameters():
        state = optimizer.state[parameter]
        for key in ("exp_avg", "exp_avg_sq"):
            wanted = old[parameter][key].masked_fill(changed[name], 0.0)
            assert torch.equal(state[key], old[parameter][key] if memory == "keep" else wanted)
        restarted = memory == "zero moments and step" and changed[name].any()
        assert float(state["step"]) == (0.0 if restarted else 3.0)
    assert not module[2].weight[:, 2].any(), "where two recycled units meet, the weight is 0"


def test_units_begin_anew_with_their_normalisation() -> None:
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    module(torch.randn(6, 1, 4, 4))
    with torch.no_grad():
        module[1].weight.fill_(3.0)
        module[1].bias.fill_(-9.0)
    mean = module[1].running_mean.clone()
    place = UnitPlace(layer="0", readers=("4",), norms=("1",))
    recycle_units_(module, [place], UnitReset(rule="test", units={"0": (1,)}), keyed=KEYED, optimizer=None)
    assert module[1].weight.tolist() == [3.0, 1.0, 3.0] and module[1].bias.tolist() == [-9.0, 0.0, -9.0]
    assert module[1].running_mean.tolist() == [float(mean[0]), 0.0, float(mean[2])]
    assert (
        float(module[1].running_var[1]) == 1.0 and not module[4].weight[:, 4:8].any() and module[4].weight[:, :4].all()
    )


def test_layers_and_sets_go_back_to_fresh_or_to_their_initial_values() -> None:
    module = _network()
    initial = {name: value.clone() for name, value in module.state_dict().items()}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    _learn(module, optimizer, 3)
    parameters = dict(module.named_parameters())
    learned = {name: value.detach().clone() for name, value in parameters.items()}
    some = {"4.weight": torch.rand(2, 5) < 0.5}
    overwrite_(parameters, initial, some, optimizer=optimizer, memory="zero moments")
    assert torch.equal(module[4].weight, torch.where(some["4.weight"], initial["4.weight"], learned["4.weight"]))
    assert not optimizer.state[module[4].weight]["momentum_buffer"][some["4.weight"]].any()
    fresh = fresh_values(module, KEYED)
    overwrite_(parameters, fresh, whole_layers(parameters, ["2"]), optimizer=optimizer, memory="keep")
    assert torch.equal(module[2].weight, fresh["2.weight"]) and torch.equal(module[2].bias, fresh["2.bias"])
    assert torch.equal(module[0].weight, learned["0.weight"])


def test_what_cannot_be_reset_is_refused_and_nothing_changes() -> None:
    module = _network()
    before: dict[str, Tensor] = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=r"at least 0, got -1"):
        ReDo(threshold=-1)
    with pytest.raises(ValueError, match="units of '4' are to be recycled, but only of 0, 2 is the place known"):
        recycle_units_(module, PLACES, UnitReset(rule="r", units={"0": (0,), "4": (0,)}), keyed=KEYED, optimizer=None)
    with pytest.raises(ValueError, match="0 has units 0 to 3, there is no 9"):
        recycle_units_(module, PLACES, UnitReset(rule="r", units={"2": (0,), "0": (9,)}), keyed=KEYED, optimizer=None)
    parameters = dict(module.named_parameters())
    with pytest.raises(ValueError, match=r"there is no layer '1' with parameters; there are 0\.weight"):
        whole_layers(parameters, ["1"])
    with pytest.raises(ValueError, match=r"the mask of 9\.weight, \(2,\), must have its equal in the state"):
        overwrite_(parameters, {}, {"9.weight": torch.ones(2, dtype=torch.bool)}, optimizer=None, memory="keep")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
