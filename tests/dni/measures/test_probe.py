"""Does a probe ask a source for no more than it may, and pull gradients back as autograd does?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni import ConditionalSyntheticGradient, Need, NoGradient, Shadow, Signal, SyntheticGradient, TrueGradient
from dni.measures.probe import ask, grade_source, pull_back
from dni.measures.quality import agreement

N = 9


class _NeedsLoss(SyntheticGradient):
    """A source that needs what no probe brings."""

    needs = Need.LOSS


def _random() -> Tensor:
    return torch.randn(N, 4)


def _woken(source: SyntheticGradient, h: Tensor) -> SyntheticGradient:
    source.build(h, generator=torch.Generator())
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    return source


def test_a_source_is_asked_only_where_the_signal_holds_what_it_needs() -> None:
    h, gradient = _random(), _random()
    conditional = ConditionalSyntheticGradient(3)
    conditional.build(h, generator=torch.Generator())
    assert ask(conditional, h, Signal(step=0)) is None
    assert ask(conditional, h, Signal(step=0, target=torch.zeros(N).long())) is not None
    assert ask(TrueGradient(), h, Signal(step=0)) is None
    assert ask(TrueGradient(), h, Signal(step=0, gradient=gradient)) == [gradient]
    assert ask(_woken(_NeedsLoss(), h), h, Signal(step=0, gradient=gradient)) is None
    assert ask(NoGradient(), h, Signal(step=0)) is None


def test_of_a_shadow_what_acts_is_used_and_the_other_is_graded() -> None:
    layer, x, true, shown = nn.Linear(3, 4), torch.randn(N, 3), _random(), _random()
    graph = layer(x)
    source = _woken(SyntheticGradient(), graph.detach())
    before = [parameter.detach().clone() for parameter in source.parameters()]
    used, grades = grade_source(
        Shadow(source),
        graph.detach(),
        Signal(step=0, gradient=shown),
        true=[true],
        graph=[graph],
        parameters=list(layer.parameters()),
    )
    assert used == [shown]
    estimate = source.estimate(graph.detach(), Signal(step=0))
    assert isinstance(estimate, Tensor)
    for name, value in agreement([estimate], [true]).items():
        assert grades[name] == value
    assert grades["target_cosine"] == agreement([estimate], [shown])["cosine"]
    assert all(torch.equal(a, b) for a, b in zip(before, source.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_gradients_are_pulled_back_as_autograd_does_and_are_zero_where_nothing_depends() -> None:
    x, unused = torch.randn(N, 3, requires_grad=True), torch.randn(N, 2, requires_grad=True)
    layer, g = nn.Linear(3, 4), _random()
    h = torch.tanh(layer(x))
    found = pull_back([h, torch.ones(N, 1)], [x, unused], [g, torch.ones(N, 1)])
    expected = torch.autograd.grad(h, x, g)[0]
    torch.testing.assert_close(found[0], expected, rtol=0, atol=0)
    assert torch.equal(found[1], torch.zeros(N, 2))
    assert torch.equal(pull_back([torch.ones(N, 1)], [x], [torch.ones(N, 1)])[0], torch.zeros(N, 3))
    assert x.grad is None and all(parameter.grad is None for parameter in layer.parameters())
