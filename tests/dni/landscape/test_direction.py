"""Do directions have the length and the names that they should, and does an optimiser stay where it is?"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.landscape.direction import between, filter_normalized, moved, optimizer_step, random_direction, scaled_to


def _keyed(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(len(name))


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4)).double()


def test_filters_have_the_norms_of_the_point_and_what_is_narrow_stays() -> None:
    point = dict(_net().named_parameters())
    with torch.no_grad():
        point["0.weight"][1] = 0
    raw = random_direction(point, _keyed)
    raw["3.weight"][2] = 0
    found = filter_normalized(raw, point)
    for name in ("0.weight", "3.weight"):
        for own, drawn, weight in zip(found[name], raw[name], point[name], strict=True):
            by_hand = (
                drawn * 0 if not drawn.any() else drawn / drawn.square().sum().sqrt() * weight.square().sum().sqrt()
            )
            torch.testing.assert_close(own, by_hand)
    assert not any(bool(found[name].any()) for name in ("0.bias", "1.weight", "1.bias", "3.bias"))


def test_random_direction_goes_by_the_names_alone() -> None:
    point: dict[str, Tensor] = {"a": torch.ones(3), "count": torch.ones(2, dtype=torch.int64), "bb": torch.ones(3)}
    found = random_direction(point, _keyed)
    assert set(found) == {"a", "bb"}
    assert torch.equal(found["bb"], random_direction({"bb": torch.ones(3)}, _keyed)["bb"])
    two = scaled_to(found, 2.0)
    assert float(torch.cat(list(two.values())).norm()) == pytest.approx(2.0)
    with pytest.raises(ValueError, match=r"greater than 0 to be scaled to 1\.0, got 0"):
        scaled_to({"a": torch.zeros(3)}, 1.0)


def test_a_step_between_two_checkpoints_ends_at_the_second() -> None:
    start, end = _net().state_dict(), _net().state_dict()
    there = moved(start, [between(start, end)], [1.0])
    for name in there:
        torch.testing.assert_close(there[name], start[name] if "num_batches" in name else end[name])
    with pytest.raises(ValueError, match=r"only one of them has 3\.bias"):
        between(start, {name: value for name, value in end.items() if name != "3.bias"})
    with pytest.raises(ValueError, match=r"got \(5,\) for 3.bias, where the point has torch.float64 \(4,\)"):
        between(start, end | {"3.bias": torch.ones(5)})
    with pytest.raises(ValueError, match=r"finite, got numbers that are not in 3.bias"):
        between(start, end | {"3.bias": torch.full((4,), torch.nan)})


@pytest.mark.parametrize(("kind", "settings"), [(torch.optim.Adam, {}), (torch.optim.SGD, {"momentum": 0.9})])
def test_step_of_an_optimiser_is_the_one_that_it_then_takes(kind: Any, settings: dict[str, Any]) -> None:
    net = _net()
    optimizer = kind(net.parameters(), lr=0.1, weight_decay=0.01, **settings)
    point = dict(net.named_parameters())
    for parameter in point.values():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    gradients = {name: torch.randn_like(parameter) for name, parameter in point.items() if name != "0.bias"}
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    held = {name: parameter.grad for name, parameter in point.items()}
    step = optimizer_step(optimizer, point, gradients)
    for name, value in before[0].items():
        assert torch.equal(net.state_dict()[name], value)
    for index, own in before[1]["state"].items():
        assert all(
            torch.equal(torch.as_tensor(value), own[key])
            for key, value in optimizer.state_dict()["state"][index].items()
        )
    assert all(parameter.grad is held[name] for name, parameter in point.items())
    for name, parameter in point.items():
        parameter.grad = gradients.get(name)
    optimizer.step()
    for name, parameter in point.items():
        torch.testing.assert_close(parameter.detach() - before[0][name], step[name])
    assert not bool(step["0.bias"].any())
    with pytest.raises(ValueError, match="does not hold w"):
        optimizer_step(optimizer, {"w": torch.ones(2)}, {})
