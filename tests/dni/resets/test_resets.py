"""Do resets change what they say, exactly, and leave the function and the others alone where they must?"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dni import (
    Hidden,
    ReDo,
    RunningScores,
    UnitReset,
    fresh_values,
    overwrite_,
    score_dormancy,
    score_unit_activity,
    whole_layers,
    zero_biases,
)
from pipeline.randomness.keyed import generator
from tests.dni.structure.networks import changed

KEYED = partial(generator, 0, step=0)


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
    hidden = Hidden.of(module, producers=["0"], consumers=["2"])
    origin = plan.origin("0", num_units=4)
    renewed = changed(module, hidden, origin, given=zero_biases(hidden, 1))
    before, output, after = module.state_dict(), module(x), renewed.state_dict()
    assert (after["0.weight"][1] != before["0.weight"][1]).all() and float(after["0.bias"][1]) == 0.0
    assert not after["2.weight"][:, 1].any()
    rest = torch.tensor([0, 2, 3])
    for name in before:
        cut = {"0.weight": (rest,), "0.bias": (rest,), "2.weight": (slice(None), rest)}.get(name, (slice(None),))
        assert torch.equal(after[name][cut], before[name][cut])
    torch.testing.assert_close(renewed(x), output, rtol=0, atol=1e-12)
    heard = renewed.get_submodule("0")(x).relu().detach()[:, 1]
    assert float(heard.abs().mean()) > 0.01, "it is heard no more, but it is no longer silent"


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
    with pytest.raises(ValueError, match=r"that begin anew must lie in \[0, 4\), got \[9\]"):
        UnitReset(rule="r", units={"2": (0,), "0": (9, 1)}).origin("0", num_units=4)
    assert UnitReset(rule="r", units={"2": (0,)}).origin("0", num_units=4).is_identity
    parameters = dict(module.named_parameters())
    with pytest.raises(ValueError, match=r"there is no layer '1' with parameters; there are 0\.weight"):
        whole_layers(parameters, ["1"])
    with pytest.raises(ValueError, match=r"the mask of 9\.weight, \(2,\), must have its equal in the state"):
        overwrite_(parameters, {}, {"9.weight": torch.ones(2, dtype=torch.bool)}, optimizer=None, memory="keep")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
