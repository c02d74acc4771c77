"""Does an optimiser whose steps are scaled by curvature go where it should?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from dni import (
    CurvatureRates,
    CurvatureSettings,
    ParameterPartition,
    Summary,
    cubic_rates,
    loss_parts,
    newton_rates,
    summarise,
)
from tests.dni.curvature.networks import mlp, parameters_of, shapes_of

EXACTLY: dict[str, Any] = {"factor": 1.0, "rate_memory": 0.0, "period": 1, "floor": -math.inf}


def _bowl() -> tuple[dict[str, nn.Parameter], Callable[[Mapping[str, Tensor]], Tensor]]:
    """Two parameters that interact; the minimum is at 0."""
    own = {name: nn.Parameter(torch.tensor([value], dtype=torch.float64)) for name, value in (("a", 3.0), ("b", -1.0))}

    def loss(at: Mapping[str, Tensor]) -> Tensor:
        a, b = at["a"], at["b"]
        return (5 * a * a + 4 * a * b + 2 * b * b).sum()

    return own, loss


def _wrapped(own: Mapping[str, Tensor], inner: Any, **settings: Any) -> CurvatureRates:
    partition = ParameterPartition.by_tensor({name: tuple(each.shape) for name, each in own.items()})
    return CurvatureRates(inner, own, partition, CurvatureSettings(**settings))


def _step(optimizer: CurvatureRates, own: Mapping[str, Tensor], loss: Any) -> None:
    optimizer.zero_grad()
    loss(own).backward()
    optimizer.step(lambda u: summarise([loss], own, u, optimizer.partition))


@pytest.mark.parametrize("inner", [partial(SGD, lr=1.0), partial(SGD, lr=1e-2, momentum=0.9), partial(Adam, lr=1e-3)])
def test_minimum_of_a_quadratic_is_one_step_away_whatever_proposes_it(inner: Callable[..., Any]) -> None:
    own, loss = _bowl()
    _step(_wrapped(own, inner(own.values()), rule=newton_rates, **EXACTLY), own, loss)
    assert all(float(each.detach().abs().max()) < 1e-10 for each in own.values())


def test_rates_are_kept_until_the_next_period_and_then_averaged() -> None:
    own, loss = _bowl()
    answers = [torch.tensor(pair, dtype=torch.float64) for pair in ((1.0, 4.0), (3.0, 0.0))]
    rule = iter(answers)
    settings: dict[str, Any] = {"period": 2, "factor": 0.5, "rate_memory": 0.25, "ceiling": 3.0}
    optimizer = _wrapped(own, SGD(own.values(), lr=1e-3), rule=lambda summary: next(rule), **settings)
    seen = []
    for _ in range(3):
        _step(optimizer, own, loss)
        seen.append(optimizer.rates.tolist())
    assert seen == [[0.5, 1.5], [0.5, 1.5], [0.5 * 2.5, 0.5 * 1.0]]
    assert optimizer.statistics() == {"num_steps": 3, "num_summaries": 2, "num_unsolved": 0}


def test_plain_step_is_what_a_rate_of_one_gives() -> None:
    own, loss = _bowl()
    twin = copy.deepcopy(own)
    plain = Adam(twin.values(), lr=0.1, weight_decay=0.01)
    inner = Adam(own.values(), lr=0.1, weight_decay=0.01)
    optimizer = _wrapped(own, inner, rule=lambda summary: torch.ones(2).double(), **EXACTLY)
    for _ in range(3):
        _step(optimizer, own, loss)
        plain.zero_grad()
        loss(twin).backward()
        plain.step()
    for name in own:
        torch.testing.assert_close(own[name], twin[name], rtol=1e-12, atol=0)


def test_rate_that_goes_against_the_optimiser_is_held_at_the_floor() -> None:
    own, loss = _bowl()
    settings = {**EXACTLY, "floor": 0.0}
    optimizer = _wrapped(own, SGD(own.values(), lr=1.0), rule=newton_rates, **settings)
    _step(optimizer, own, loss)
    assert optimizer.rates.tolist() == [pytest.approx(3 / 26), 0]
    assert own["b"].item() == -1


def test_subset_that_stands_still_keeps_its_rate() -> None:
    own, loss = _bowl()
    optimizer = _wrapped(own, SGD(own.values(), lr=1.0), rule=newton_rates, **EXACTLY)
    _step(optimizer, own, loss)
    before = optimizer.rates
    for each in own.values():
        each.data.fill_(1.0)
    optimizer.zero_grad()
    loss(own).backward()
    own["a"].grad = None
    seen: list[Summary] = []
    optimizer.step(lambda u: seen.append(summarise([loss], own, u, optimizer.partition)) or seen[0])
    assert optimizer.rates[0] == before[0]
    assert optimizer.rates[1] != before[1]
    assert own["a"] == 1


def test_summary_without_rates_leaves_the_old_ones() -> None:
    own = {"a": nn.Parameter(torch.tensor([1.0], dtype=torch.float64))}
    optimizer = _wrapped(own, SGD(own.values(), lr=1.0), rule=newton_rates, **EXACTLY)
    _step(optimizer, own, lambda at: at["a"].sum())
    assert own["a"].item() == 1
    assert optimizer.statistics()["num_unsolved"] == 1
    _step(optimizer, own, lambda at: at["a"].square().sum())
    assert own["a"].item() == 0
    assert optimizer.rates[0] == 0.5


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_small_network_is_trained_and_goes_on_from_its_state_as_if_never_stopped(memory: float) -> None:
    module, x, target = mlp()
    loss = nn.CrossEntropyLoss()

    def wrapped(own: nn.Module) -> CurvatureRates:
        inner = SGD(own.parameters(), lr=1.0, momentum=0.9)
        settings = CurvatureSettings(
            rule=partial(cubic_rates, strength=10.0), period=2, summary_memory=memory, factor=0.5
        )
        return CurvatureRates(inner, parameters_of(own), ParameterPartition.by_tensor(shapes_of(own)), settings)

    def train(own: nn.Module, optimizer: CurvatureRates, num_steps: int) -> None:
        for _ in range(num_steps):
            optimizer.zero_grad()
            loss(own(x), target).backward()
            optimizer.step(
                lambda u: summarise(loss_parts(own, loss, x, target), parameters_of(own), u, optimizer.partition)
            )

    before, optimizer = loss(module(x), target).item(), wrapped(module)
    train(module, optimizer, 5)
    twin = copy.deepcopy(module)
    resumed = wrapped(twin)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(module, optimizer, 4)
    train(twin, resumed, 4)
    assert all(torch.equal(one, other) for one, other in zip(module.parameters(), twin.parameters(), strict=True))
    assert loss(module(x), target).item() < 0.9 * before


def test_optimiser_of_other_parameters_and_a_state_of_another_partition_are_refused() -> None:
    own, _ = _bowl()
    with pytest.raises(ValueError, match="it lacks b, and has 0 beyond"):
        _wrapped(own, SGD([own["a"]], lr=1.0))
    one = CurvatureRates(
        SGD(own.values(), lr=1.0), own, ParameterPartition.as_one(dict.fromkeys(own, (1,))), CurvatureSettings()
    )
    with pytest.raises(ValueError, match="of the 2 subsets a, b, got all"):
        _wrapped(own, SGD(own.values(), lr=1.0)).load_state_dict(one.state_dict())
    assert one.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"period": 0}, "at least one step, got 0"),
        ({"factor": 0.0}, "above 0"),
        ({"rate_memory": 1.0}, "rate_memory is the share"),
        ({"floor": 2.0, "ceiling": 1.0}, "must not be above the ceiling"),
    ],
)
def test_setting_without_a_meaning_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CurvatureSettings(**setting)
