"""Does BP(λ) lie between backprop and the source it mixes, and is it each of them at its ends?"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dni import (
    ConditionalSyntheticGradient,
    LocalLoss,
    Members,
    MixedGradient,
    Need,
    NoGradient,
    Signal,
    SyntheticGradient,
    TrueGradient,
)


@pytest.fixture
def h() -> Tensor:
    return torch.randn(6, 4, dtype=torch.float64)


@pytest.fixture
def signal(h: Tensor) -> Signal:
    return Signal(step=3, target=torch.tensor([0, 1, 2, 0, 1, 2]), gradient=torch.randn_like(h))


def _learned(h: Tensor, signal: Signal) -> ConditionalSyntheticGradient:
    source = ConditionalSyntheticGradient(3)
    source.build(h, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        source.learn(h, signal)
    return source


def _same(found: Members | None, expected: Members | None) -> bool:
    assert isinstance(found, Tensor) and isinstance(expected, Tensor)
    return torch.equal(found, expected)


def test_mixture_is_the_equation_written_out(h: Tensor, signal: Signal) -> None:
    source = _learned(h, signal)
    own = source.estimate(h, signal)
    assert isinstance(own, Tensor) and isinstance(signal.gradient, Tensor)
    found = MixedGradient(source, 0.3).estimate(h, signal)
    torch.testing.assert_close(found, 0.3 * signal.gradient + 0.7 * own)


def test_ends_are_backprop_and_the_source_bit_for_bit(h: Tensor, signal: Signal) -> None:
    source = _learned(h, signal)
    assert _same(MixedGradient(source, 1.0).estimate(h, signal), TrueGradient().estimate(h, signal))
    assert _same(MixedGradient(source, 0.0).estimate(h, signal), source.estimate(h, signal))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_mixed_source_learns_as_it_would_alone(h: Tensor, signal: Signal, share: float) -> None:
    alone = _learned(h, signal)
    mixed = MixedGradient(copy.deepcopy(alone), share)
    mixed.estimate(h, signal)
    assert mixed.learn(h, signal) == alone.learn(h, signal)
    assert _same(mixed.source.estimate(h, signal), alone.estimate(h, signal))


def test_share_may_be_a_function_of_the_step(h: Tensor, signal: Signal) -> None:
    source = _learned(h, signal)
    falling = MixedGradient(source, lambda step: 1.0 - step / 10)
    assert _same(falling.estimate(h, signal), MixedGradient(source, 1.0 - 3 / 10).estimate(h, signal))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 2.0 at step 3"):
        MixedGradient(source, lambda step: 2.0).estimate(h, signal)


def test_mixture_needs_the_gradient_and_what_its_source_needs() -> None:
    mixed = MixedGradient(LocalLoss())
    assert mixed.needs == Need.GRADIENT | Need.TARGET and mixed.learns_from == Need.TARGET
    mixed = MixedGradient(SyntheticGradient())
    assert mixed.needs == Need.GRADIENT and mixed.learns_from == Need.GRADIENT


def test_source_that_gives_nothing_leaves_nothing_but_the_truth(h: Tensor, signal: Signal) -> None:
    assert MixedGradient(NoGradient(), 0.5).estimate(h, signal) is None
    assert _same(MixedGradient(NoGradient(), 1.0).estimate(h, signal), signal.gradient)


def test_each_floating_point_member_is_mixed(h: Tensor) -> None:
    class Ones(nn.Module):
        needs = learns_from = Need.NONE

        def build(self, h: Members, *, generator: torch.Generator) -> None: ...

        def estimate(self, h: Members, signal: Signal) -> Members | None:
            return torch.ones(6, 4), None, torch.ones(6, 2)

        def learn(self, h: Members, signal: Signal) -> float:
            return 0.0

    outputs = (h, torch.arange(6), torch.randn(6, 2))
    found = MixedGradient(Ones(), 0.25).estimate(
        outputs, Signal(step=0, gradient=(torch.full((6, 4), 5.0), None, torch.full((6, 2), 9.0)))
    )
    assert isinstance(found, tuple) and found[1] is None
    torch.testing.assert_close((found[0], found[2]), (torch.full((6, 4), 2.0), torch.full((6, 2), 3.0)))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_share_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=rf"must lie in \[0, 1\], got {share}\."):
        MixedGradient(SyntheticGradient(), share)


def test_mixture_without_the_gradient_says_so(h: Tensor, signal: Signal) -> None:
    with pytest.raises(ValueError, match=r"MixedGradient needs dL/dh .* step 0 has no gradient"):
        MixedGradient(_learned(h, signal), 0.5).estimate(h, Signal(step=0, target=signal.target))
