"""Do shocks have their size, and are they the same again?"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from dni import Electroshock, ShrinkAndPerturb
from dni.structure.keyed import draw_normal
from pipeline.randomness.keyed import generator

KEYED = partial(generator, 0, step=0)


def _parameters() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {name: nn.Parameter(torch.randn(40, 50, dtype=torch.float64) * 3) for name in ("a", "b")}


@pytest.mark.parametrize(("size", "noise"), [(0.0, 1.0), (0.3, 1.0), (0.3, {"a": 2.0, "b": 0.0}), (1.0, 1.0)])
def test_shock_is_its_equation(size: float, noise: float | dict[str, float]) -> None:
    parameters = _parameters()
    before = {name: value.detach().clone() for name, value in parameters.items()}
    Electroshock(size=size, noise=noise).apply_(parameters, KEYED, optimizer=None, memory="keep")
    for name, value in parameters.items():
        own = noise if isinstance(noise, float) else noise[name]
        old = before[name].flatten().tolist()
        mean = math.fsum(old) / len(old)
        deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in old) / len(old))
        drawn = draw_normal(KEYED, name, value.detach())
        torch.testing.assert_close(
            value.detach(), (1 - size) * before[name] + size * own * deviation * drawn, rtol=1e-12, atol=1e-12
        )


def test_noise_that_is_said_to_keep_the_variance_keeps_it() -> None:
    for size in (0.1, 0.5):
        parameters = _parameters()
        before = float(parameters["a"].detach().std())
        Electroshock(size=size, noise=math.sqrt((2 - size) / size)).apply_(
            parameters, KEYED, optimizer=None, memory="keep"
        )
        assert float(parameters["a"].detach().std()) == pytest.approx(before, rel=0.05)


def test_shrink_and_perturb_is_its_equation_from_nothing_to_a_new_beginning() -> None:
    fresh = {name: torch.randn(40, 50, dtype=torch.float64) for name in ("a", "b", "c")}
    for shrink, perturb in ((0.4, 0.1), (1.0, 0.0), (0.0, 1.0)):
        parameters = _parameters()
        before = {name: value.detach().clone() for name, value in parameters.items()}
        ShrinkAndPerturb(shrink=shrink, perturb=perturb).apply_(parameters, fresh, optimizer=None, memory="keep")
        for name, value in parameters.items():
            torch.testing.assert_close(
                value.detach(), shrink * before[name] + perturb * fresh[name], rtol=1e-14, atol=1e-14
            )
    assert (
        torch.equal(parameters["a"], fresh["a"])
        and repr(ShrinkAndPerturb()) == "ShrinkAndPerturb(shrink=0.4, perturb=0.1)"
    )


@pytest.mark.parametrize("memory", ["keep", "zero moments", "zero moments and step"])
def test_optimiser_remembers_what_it_is_told_to(memory: str) -> None:
    parameters = _parameters()
    optimizer = torch.optim.Adam(parameters.values())
    for value in parameters.values():
        value.grad = torch.ones_like(value)
    optimizer.step()
    Electroshock(size=0.1).apply_({"a": parameters["a"]}, KEYED, optimizer=optimizer, memory=memory)  # type: ignore[arg-type]
    touched, other = (optimizer.state[parameters[name]] for name in "ab")
    assert bool(touched["exp_avg"].any()) == (memory == "keep")
    assert float(touched["step"]) == (0.0 if memory == "zero moments and step" else 1.0)
    assert other["exp_avg"].all() and float(other["step"]) == 1.0


def test_shocks_that_cannot_be_are_refused() -> None:
    for size in (-0.1, 1.1):
        with pytest.raises(ValueError, match=rf"the size of a shock must lie in \[0, 1\], got {size}"):
            Electroshock(size=size)
        with pytest.raises(ValueError, match=rf"shrink must lie in \[0, 1\], got {size}"):
            ShrinkAndPerturb(shrink=size)
    with pytest.raises(ValueError, match="finite and at least 0, got -1"):
        Electroshock(size=0.1, noise={"a": -1.0})
    with pytest.raises(ValueError, match="perturb must be finite and at least 0, got -1"):
        ShrinkAndPerturb(perturb=-1)
    parameters = _parameters()
    kept = parameters["a"].detach().clone()
    with pytest.raises(ValueError, match="b must have a noise of its own, as others have: a"):
        Electroshock(size=0.1, noise={"a": 1.0}).apply_(parameters, KEYED, optimizer=None, memory="keep")
    with pytest.raises(ValueError, match=r"b, \(40, 50\), must have a fresh value of its shape: only a"):
        ShrinkAndPerturb().apply_(parameters, {"a": kept}, optimizer=None, memory="keep")
    assert torch.equal(parameters["a"], kept)
