"""Does an optimiser forget what it is told to, and nothing else; and what does Adam make of a partial reset?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import forget_

Make = Callable[..., torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=0.01, amsgrad=True),
    "adamw": partial(torch.optim.AdamW, lr=0.01),
    "nadam": partial(torch.optim.NAdam, lr=0.01),
    "radam": partial(torch.optim.RAdam, lr=0.01),
    "adamax": partial(torch.optim.Adamax, lr=0.01),
    "adagrad": partial(torch.optim.Adagrad, lr=0.01, initial_accumulator_value=0.5),
    "adadelta": partial(torch.optim.Adadelta, lr=0.01),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01, momentum=0.5, centered=True),
    "rprop": partial(torch.optim.Rprop, lr=0.01),
}


def _stepped(make: Make, steps: int = 4) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    parameter = nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3))
    optimizer = make([parameter])
    for step in range(steps):
        _step(parameter, optimizer, step)
    return parameter, optimizer


def _step(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, step: int) -> None:
    drawn = torch.Generator().manual_seed(step)
    parameter.grad = torch.randn(2, 3, generator=drawn, dtype=torch.float64)
    optimizer.step()


def _update(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> Tensor:
    before = parameter.detach().clone()
    _step(parameter, optimizer, 99)
    return parameter.detach() - before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_whole_tensor_that_is_forgotten_with_its_step_learns_as_on_its_first_day(name: str) -> None:
    parameter, optimizer = _stepped(OPTIMIZERS[name])
    forget_(optimizer, parameter, torch.ones(2, 3, dtype=torch.bool), "zero moments and step")
    new = nn.Parameter(parameter.detach().clone())
    torch.testing.assert_close(_update(parameter, optimizer), _update(new, OPTIMIZERS[name]([new])), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_entries_that_are_forgotten_leave_the_others_to_the_bit(name: str) -> None:
    entries = torch.tensor([[True, False, False], [False, True, False]])
    (parameter, optimizer), (twin, other) = (_stepped(OPTIMIZERS[name]) for _ in range(2))
    forget_(optimizer, parameter, entries, "zero moments")
    ours, theirs = _update(parameter, optimizer), _update(twin, other)
    assert torch.equal(ours[~entries], theirs[~entries]) and (ours[entries] != theirs[entries]).any()
    forget_(optimizer, parameter, entries, "keep")
    assert torch.equal(_update(parameter, optimizer)[~entries], _update(twin, other)[~entries])


def _rates(memory: Any, *, steps: int) -> tuple[list[float], list[float]]:
    """Updates in learning rates of an entry reset at step 20,000 and of one that was not; the gradient is 1."""
    parameter = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], lr=1.0, eps=0.0)
    parameter.grad = torch.ones(2, dtype=torch.float64)
    optimizer.step()
    state = optimizer.state[parameter]
    state["step"].fill_(20_000)
    state["exp_avg"].fill_(1.0)
    state["exp_avg_sq"].fill_(1.0)
    forget_(optimizer, parameter, torch.tensor([True, False]), memory)
    reset, healthy = [], []
    for _ in range(steps):
        before = parameter.detach().clone()
        optimizer.step()
        one, two = (before - parameter.detach()).tolist()
        reset.append(one)
        healthy.append(two)
    return reset, healthy


def test_adam_does_to_reset_and_to_healthy_entries_what_is_documented() -> None:
    reset, healthy = _rates("zero moments", steps=600)
    assert reset[0] == pytest.approx(3.16, abs=0.01) and max(reset) == pytest.approx(6.57, abs=0.01)
    assert reset.index(max(reset)) + 1 == 12 and 585 <= sum(rate > 1.5 for rate in reset) <= 595
    assert healthy == pytest.approx([1.0] * 600, rel=1e-6)
    reset, healthy = _rates("zero moments and step", steps=2000)
    assert reset == pytest.approx([1.0] * 2000, rel=1e-6)
    found = [healthy[step - 1] for step in (1, 10, 100, 500, 2000)]
    assert found == pytest.approx([0.32, 0.15, 0.31, 0.63, 0.93], abs=0.01)


def test_step_of_every_entry_begins_anew_for_those_alone() -> None:
    parameter, optimizer = _stepped(OPTIMIZERS["adam"])
    optimizer.state[parameter]["step"] = torch.full((2, 3), 4.0)
    entries = torch.eye(2, 3, dtype=torch.bool)
    forget_(optimizer, parameter, entries, "zero moments and step")
    assert torch.equal(optimizer.state[parameter]["step"], torch.where(entries, 0.0, 4.0))
    optimizer.state[parameter]["step"] = torch.full((2, 1), 4.0)
    with pytest.raises(
        ValueError,
        match=r"step of a parameter must be one number or have the parameter's shape, \(2, 3\).*got \(2, 1\)",
    ):
        forget_(optimizer, parameter, entries, "zero moments and step")


def test_average_of_values_begins_with_the_value() -> None:
    parameter, optimizer = _stepped(partial(torch.optim.ASGD, lr=0.1, t0=1), steps=8)
    average, entries = optimizer.state[parameter]["ax"], torch.eye(2, 3, dtype=torch.bool)
    before = average.clone()
    assert (before != parameter).all()
    forget_(optimizer, parameter, entries, "zero moments")
    assert torch.equal(average, torch.where(entries, parameter, before))


def test_optimiser_whose_state_is_not_known_is_refused() -> None:
    parameter, optimizer = _stepped(partial(torch.optim.Adafactor, lr=0.1))
    with pytest.raises(TypeError, match="element by element, got Adafactor"):
        forget_(optimizer, parameter, torch.ones(2, 3, dtype=torch.bool), "zero moments")


def test_state_that_is_not_there_is_left_so_and_an_unknown_choice_refused() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter])
    forget_(optimizer, parameter, torch.ones(2, dtype=torch.bool), "zero moments and step")
    assert not optimizer.state
    with pytest.raises(ValueError, match="zero moments and step; got 'reset'"):
        forget_(optimizer, parameter, torch.ones(2, dtype=torch.bool), "reset")  # type: ignore[arg-type]
