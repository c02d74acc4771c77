"""Are accumulated gradients divided, clipped and applied as they must be, and does the state go on by names?"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import Cosine, Steps
from pipeline.errors import NotFinite
from pipeline.learners.updater import Updater

Factory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def _sgd(parameters: Iterable[nn.Parameter], **more: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, **more)


def _momentum(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)


def _adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def _two_groups(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The order of groups is not the order of names."""
    weight, bias = parameters
    return torch.optim.SGD([{"params": [bias], "lr": 0.2}, {"params": [weight]}], lr=0.1, momentum=0.9)


def _updater(
    module: nn.Module, optimizer: Factory = _sgd, *, schedule: Callable[[int], float] = lambda step: 1.0, **more: Any
) -> Updater:
    named = {f"3.{name}": parameter for name, parameter in module.named_parameters()}
    return Updater(named, optimizer=optimizer, schedule=schedule, **more)


def _linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def _learn(module: nn.Module, updater: Updater, step: int, num_samples: int = 4) -> None:
    x = torch.randn(num_samples, 3, generator=torch.Generator().manual_seed(step))
    module(x).square().sum().backward()
    updater.accumulate(num_samples)


def _weights(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


@pytest.mark.parametrize("optimizer", [_sgd, _momentum, _adam], ids=["sgd", "momentum", "adam"])
def test_update_divides_once_by_the_samples_as_a_large_batch_does(optimizer: Factory) -> None:
    module, twin = _linear().double(), _linear().double()
    updater, plain = _updater(module, optimizer), optimizer(twin.parameters())
    for window in range(3):
        xs = [torch.randn(n, 3, dtype=torch.float64) for n in (4, 3, 1)]
        for x in xs:
            module(x).square().sum().backward()
            updater.accumulate(len(x))
        assert updater.num_samples == 8
        assert updater.apply(window) and updater.num_samples == 0
        plain.zero_grad()
        (twin(torch.cat(xs)).square().sum() / 8).backward()
        plain.step()
    torch.testing.assert_close(_weights(module), _weights(twin), rtol=1e-12, atol=1e-12)


def test_nothing_accumulated_is_no_step() -> None:
    module = _linear()
    updater = _updater(module, _momentum)
    _learn(module, updater, 0)
    assert updater.apply(0)
    after = _weights(module)
    assert not updater.apply(1)
    assert all(torch.equal(a, b) for a, b in zip(after, _weights(module), strict=True)), "momentum alone moves nothing"


def test_update_clears_the_gradients() -> None:
    module = _linear()
    updater = _updater(module)
    _learn(module, updater, 0)
    updater.apply(0)
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("largest", [0.25, 1e6, math.inf])
def test_averaged_gradient_is_clipped(largest: float) -> None:
    module = _linear()
    updater = _updater(module, clip_norm=largest)
    before = _weights(module)
    _learn(module, updater, 0)
    gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]) / 4
    updater.apply(0)
    moved = torch.cat([((a - b) / 0.1).flatten() for a, b in zip(before, _weights(module), strict=True)])
    factor = min(1.0, largest / gradient.norm().item())
    torch.testing.assert_close(moved, gradient * factor, rtol=1e-4, atol=1e-5)
    assert gradient.norm() > 0.25


@pytest.mark.parametrize("schedule", [Steps(at=(2, 5), factor=0.5), Cosine(total=8, warmup=2)])
def test_schedule_is_a_function_of_the_step_and_does_not_accumulate(schedule: Callable[[int], float]) -> None:
    moved = {}
    for order in ((0, 1, 2, 3, 5, 6), (6, 2, 5), (3,)):
        module = _linear()
        updater = _updater(module, schedule=schedule)
        for step in order:
            before = _weights(module)
            for parameter in module.parameters():
                parameter.grad = torch.ones_like(parameter)
            updater.accumulate(1)
            updater.apply(step)
            distance = (before[0] - _weights(module)[0]).max().item()
            assert distance == pytest.approx(0.1 * schedule(step), abs=1e-6)
            assert moved.setdefault(step, pytest.approx(distance, abs=1e-6)) == distance
    assert set(moved) == {0, 1, 2, 3, 5, 6}


def test_schedule_multiplies_the_rate_of_each_group() -> None:
    module = _linear()
    updater = _updater(module, _two_groups, schedule=lambda step: 0.5)
    before = _weights(module)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    updater.accumulate(1)
    updater.apply(0)
    moved = [(a - b).max().item() for a, b in zip(before, _weights(module), strict=True)]
    assert moved == [pytest.approx(0.05), pytest.approx(0.1)]


class CountsInItsGroup(torch.optim.SGD):
    """Keeps its progress where schedule-free and D-Adaptation optimisers do: in the group, not in the state."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["rounds"] = group.get("rounds", 0) + 1
            group["weight_decay"] = 0.1 * group["rounds"]
        super().step()


def _counts_in_its_group(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return CountsInItsGroup(parameters, lr=0.1)


@pytest.mark.parametrize("optimizer", [_sgd, _momentum, _adam, _two_groups, _counts_in_its_group])
def test_state_goes_on_by_names_accumulated_gradients_included(optimizer: Factory) -> None:
    module = _linear()
    updater = _updater(module, optimizer)
    for step in range(3):
        _learn(module, updater, step)
        updater.apply(step)
    _learn(module, updater, 3, num_samples=2)
    file = io.BytesIO()
    torch.save(updater.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert set(state["gradients"]) == {"3.weight", "3.bias"} and "num_samples" not in state
    assert set(state["optimizer"]) <= {"3.weight", "3.bias"}
    resumed_module = copy.deepcopy(module)
    for parameter in resumed_module.parameters():
        parameter.grad = None
    resumed = _updater(resumed_module, optimizer)
    resumed.load_state_dict(state)
    for m, u in ((module, updater), (resumed_module, resumed)):
        _learn(m, u, 4)
        u.apply(4)
        _learn(m, u, 5)
        u.apply(5)
    assert all(torch.equal(a, b) for a, b in zip(_weights(module), _weights(resumed_module), strict=True))


def test_state_is_a_copy_that_later_steps_do_not_change() -> None:
    module = _linear()
    updater = _updater(module)
    _learn(module, updater, 0)
    state = updater.state_dict()
    kept = state["gradients"]["3.weight"].clone()
    _learn(module, updater, 1)
    assert torch.equal(state["gradients"]["3.weight"], kept)


def test_learning_rate_comes_from_the_configuration_not_from_the_state() -> None:
    module = _linear()
    old = _updater(module, _momentum)
    _learn(module, old, 0)
    old.apply(0)
    other = nn.Linear(3, 2)
    resumed = _updater(other, lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9))
    resumed.load_state_dict(old.state_dict())
    before = _weights(other)
    _learn(other, resumed, 1)
    resumed.apply(1)
    assert all(torch.equal(a, b) for a, b in zip(before, _weights(other), strict=True))


def test_frozen_parameters_are_left_out() -> None:
    module = _linear()
    module.bias.requires_grad_(False)
    updater = _updater(module, lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=1.0))
    before = module.bias.clone()
    _learn(module, updater, 0)
    updater.apply(0)
    assert torch.equal(before, module.bias) and list(updater.parameters) == ["3.weight"]


def test_stage_without_parameters_makes_no_optimizer() -> None:
    def refuse(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        raise AssertionError("nothing to optimise")

    updater = _updater(nn.ReLU(), refuse)
    updater.accumulate(4)
    assert not updater.apply(0) and updater.num_samples == 0
    updater.load_state_dict(updater.state_dict())
    updater.check_finite()
    state = updater.state_dict()
    assert [state[name] for name in ("optimizer", "groups", "gradients", "touched")] == [{}, [], {}, []]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_parameter_that_is_not_finite_is_named(value: float) -> None:
    module = _linear()
    updater = _updater(module)
    updater.check_finite()
    with torch.no_grad():
        module.bias[1] = value
    with pytest.raises(NotFinite, match=r"parameter 3\.bias holds NaN or infinity"):
        updater.check_finite()
