"""Does a shadow learn without acting?"""

from __future__ import annotations

import torch

from dni import ConditionalSyntheticGradient, Need, Shadow, Signal, SyntheticGradient, TrueGradient


def test_a_shadow_needs_what_both_need_and_learns_from_what_the_shadow_learns_from() -> None:
    shadow = Shadow(ConditionalSyntheticGradient(3))
    assert shadow.needs == Need.GRADIENT | Need.TARGET
    assert shadow.learns_from == Need.GRADIENT | Need.TARGET
    assert Shadow(SyntheticGradient()).needs == Need.GRADIENT


def test_the_acting_source_gives_the_gradient_and_the_shadow_learns(generator: torch.Generator) -> None:
    h, gradient = torch.randn(6, 4), torch.randn(6, 4)
    inner = SyntheticGradient()
    shadow = Shadow(inner, TrueGradient())
    shadow.build(h, generator=generator)
    signal = Signal(step=0, gradient=gradient)
    losses = [shadow.learn(h, signal) for _ in range(20)]
    assert shadow.estimate(h, signal) is gradient
    assert losses[-1] < losses[0] and inner.regression.networks[0](h).any()


def test_an_acting_source_that_learns_goes_on_learning_as_if_alone() -> None:
    h, gradient = torch.randn(6, 4), torch.randn(6, 4)
    alone, beside = SyntheticGradient("mlp"), SyntheticGradient("mlp")
    shadow = Shadow(SyntheticGradient(), beside)
    for source in (alone, shadow):
        source.build(h, generator=torch.Generator().manual_seed(5))
        for step in range(3):
            source.learn(h, Signal(step=step, gradient=gradient))
    signal = Signal(step=3, gradient=gradient)
    torch.testing.assert_close(shadow.estimate(h, signal), alone.estimate(h, signal), rtol=0, atol=0)
