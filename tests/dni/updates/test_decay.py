"""Is weight decay in time, bit for bit, that of torch's optimisers while it is on, and nothing while it is off?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dni import Steps, WeightDecay, Within, sliding_windows

Make = Callable[..., torch.optim.Optimizer]
STRENGTH = 0.3
SGD: Make = partial(torch.optim.SGD, lr=0.1)
MOMENTUM: Make = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True)
ADAM: Make = partial(torch.optim.Adam, lr=0.01)
ADAM_W: Make = partial(torch.optim.AdamW, lr=0.01, weight_decay=0)
ASCENT: Make = partial(torch.optim.SGD, lr=0.1, momentum=0.9, maximize=True)


def _weights() -> list[nn.Parameter]:
    drawn = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(*shape, generator=drawn)) for shape in ((4, 3), (3,))]


def _learn(make: Make, decay: WeightDecay | None = None, *, steps: int = 6, idle: frozenset[int] = frozenset()) -> Any:
    """The weights after each step; at the steps in `idle` the first one has no gradient."""
    weights = _weights()
    optimizer = make(weights)
    course: list[list[Tensor]] = []
    for step in range(steps):
        drawn = torch.Generator().manual_seed(step)
        for index, weight in enumerate(weights):
            gradient = torch.randn(weight.shape, generator=drawn)
            weight.grad = None if step in idle and index == 0 else gradient
        if decay is not None:
            decay.apply_(
                weights, step=step, rate=optimizer.param_groups[0]["lr"], ascends=make.keywords.get("maximize", False)
            )
        optimizer.step()
        course.append([weight.detach().clone() for weight in weights])
    return course


def _same(a: Iterable[Iterable[Tensor]], b: Iterable[Iterable[Tensor]]) -> bool:
    return all(torch.equal(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True))


@pytest.mark.parametrize("idle", [frozenset[int](), frozenset({2, 3})], ids=["always", "idle"])
@pytest.mark.parametrize("make", [SGD, MOMENTUM, ADAM, ASCENT], ids=["sgd", "momentum", "adam", "ascent"])
def test_coupled_decay_all_the_time_is_the_optimisers_own_to_the_bit(make: Make, idle: frozenset[int]) -> None:
    ours = _learn(make, WeightDecay(strength=STRENGTH, coupling="coupled"), idle=idle)
    assert _same(ours, _learn(partial(make, weight_decay=STRENGTH), idle=idle))
    assert not _same(ours, _learn(make, idle=idle))


@pytest.mark.parametrize("idle", [frozenset[int](), frozenset({2, 3})], ids=["always", "idle"])
@pytest.mark.parametrize("make", [ADAM, ADAM_W], ids=["adam", "adamw"])
def test_decoupled_decay_all_the_time_is_adamw_to_the_bit(make: Make, idle: frozenset[int]) -> None:
    ours = _learn(make, WeightDecay(strength=STRENGTH), idle=idle)
    assert _same(ours, _learn(partial(torch.optim.AdamW, lr=0.01, weight_decay=STRENGTH), idle=idle))


@pytest.mark.parametrize("coupling", ["coupled", "decoupled"])
@pytest.mark.parametrize("make", [MOMENTUM, ADAM], ids=["momentum", "adam"])
def test_window_decays_inside_and_does_nothing_outside(make: Make, coupling: Any) -> None:
    def with_window(window: Within) -> Any:
        return _learn(make, WeightDecay(strength=STRENGTH, coupling=coupling, schedule=window))

    never, always = _learn(make), _learn(make, WeightDecay(strength=STRENGTH, coupling=coupling))
    assert _same(with_window(Within(0, 0)), never) and _same(with_window(Within()), always)
    early, late = with_window(Within(stop=3)), with_window(Within(start=3))
    assert _same(early[:3], always[:3]) and not _same(early[3:], always[3:])
    assert _same(late[:3], never[:3]) and not _same(late[3:4], never[3:4])


def test_decoupled_decay_with_a_gradient_of_zero_multiplies_the_weight_by_its_factor() -> None:
    weight = nn.Parameter(torch.full((2,), 2.0, dtype=torch.float64))
    weight.grad = torch.zeros_like(weight)
    WeightDecay(strength=0.5, schedule=Steps((1,), factor=0.1)).apply_([weight], step=1, rate=0.2)
    assert weight.tolist() == pytest.approx([2 * (1 - 0.2 * 0.05)] * 2, rel=1e-14) and not weight.grad.any()


@given(start=st.integers(0, 9), length=st.integers(0, 9), step=st.integers(0, 20))
def test_window_is_one_within_its_steps(start: int, length: int, step: int) -> None:
    assert Within(start, start + length)(step) == (1.0 if step in range(start, start + length) else 0.0)
    assert Within(start)(step) == (1.0 if step >= start else 0.0)


def test_windows_slide_over_the_run_and_end_with_it() -> None:
    assert sliding_windows(25, total=100) == tuple(Within(start, start + 25) for start in (0, 25, 50, 75))
    assert sliding_windows(4, total=10, stride=3) == (Within(0, 4), Within(3, 7), Within(6, 10))
    for length, stride in ((0, 1), (11, 1), (2, 0)):
        with pytest.raises(ValueError, match="length and stride must be at least 1 and length at most 10"):
            sliding_windows(length, total=10, stride=stride)


def test_settings_that_mean_nothing_are_refused() -> None:
    for strength in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="must be finite and not negative"):
            WeightDecay(strength=strength)
    with pytest.raises(ValueError, match="coupled or decoupled, got 'both'"):
        WeightDecay(strength=0.1, coupling="both")  # type: ignore[arg-type]
    for start, stop in ((-1, None), (3, 2)):
        with pytest.raises(ValueError, match="a window must begin at 0 or later and not end before"):
            Within(start, stop)
