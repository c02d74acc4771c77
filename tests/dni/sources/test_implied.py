"""Is what a source implies a loss whose gradient is what the source gives, and which can be differentiated further?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from dni import (
    MLP,
    ConditionalSyntheticGradient,
    Convolutional,
    DirectFeedbackAlignment,
    ImpliesLoss,
    LocalLoss,
    LossGradient,
    MixedGradient,
    MLPHead,
    NoGradient,
    OwnLabels,
    Signal,
    Sum,
    SyntheticGradient,
    TrueGradient,
    field_loss,
    implied_loss,
)

PLAIN = MLP(hidden=(7,), batch_norm=False)
SOURCES: dict[str, Any] = {
    "loss": lambda: LossGradient(nn.CrossEntropyLoss()),
    "local": lambda: LocalLoss(3),
    "local, similar": lambda: LocalLoss(3, MLPHead(num_hidden=1, batch_norm=False), similarity_weight=0.5),
    "linear": lambda: SyntheticGradient(),
    "mlp": lambda: SyntheticGradient(PLAIN),
    "conditional": lambda: ConditionalSyntheticGradient(3),
    "conditional mlp": lambda: ConditionalSyntheticGradient(3, PLAIN, embedding_dim=2),
    "sum": lambda: Sum(LocalLoss(3), SyntheticGradient(PLAIN)),
    "own labels": lambda: OwnLabels(LocalLoss(3), lambda target: 2 - target),
}


def built(source: Any, h: Any) -> Any:
    """With random weights, so that nothing is zero."""
    torch.manual_seed(1)
    source.build(h, generator=torch.Generator().manual_seed(0))
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    return source


def _signal(num_samples: int, **more: Any) -> Signal:
    torch.manual_seed(2)
    return Signal(step=0, target=torch.randint(3, (num_samples,)), **more)


FEATURES, TOKENS = (6, 5), (6, 4, 5)
NO_TOKENS = ("loss", "local, similar")


@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, FEATURES) for name in SOURCES] + [(name, TOKENS) for name in SOURCES if name not in NO_TOKENS],
)
def test_gradient_of_the_implied_loss_is_the_estimate(name: str, shape: tuple[int, ...]) -> None:
    h, signal = torch.randn(*shape, dtype=torch.float64), _signal(6)
    source = built(SOURCES[name](), h)
    assert isinstance(source, ImpliesLoss)
    leaf = h.clone().requires_grad_()
    implied_loss(source, leaf, signal).backward()
    torch.testing.assert_close(leaf.grad, source.estimate(h, signal), rtol=1e-12, atol=1e-14)


def test_members_that_carry_a_gradient_each_have_theirs_and_images_are_taken() -> None:
    h = (torch.randn(4, 2, 3, 3, dtype=torch.float64), torch.arange(4), torch.randn(4, 5, dtype=torch.float64))
    source = built(
        SyntheticGradient(lambda h, _: Convolutional((3,), 3, False)(h, 0) if h.dim() == 4 else PLAIN(h, 0)), h
    )
    leaves = (h[0].clone().requires_grad_(), h[1], h[2].clone().requires_grad_())
    implied_loss(source, leaves, _signal(4)).backward()
    image, _, features = source.estimate(h, _signal(4))
    torch.testing.assert_close(leaves[0].grad, image, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(leaves[2].grad, features, rtol=1e-12, atol=1e-14)


def test_derivatives_of_a_field_that_is_no_gradient_are_those_of_its_line_integral() -> None:
    torch.manual_seed(0)
    a, h, u, v = (torch.randn(*shape, dtype=torch.float64) for shape in ((3, 3), (3,), (3,), (3,)))

    def field(at: Tensor) -> Tensor:
        return torch.tanh(a @ at) * at

    def along(e: Tensor) -> Tensor:
        at = h + e * u + e * e * v
        return field_loss(at, field(at))

    def slope(e: Tensor) -> Tensor:
        return field(h + e * u + e * e * v) @ (u + 2 * e * v)

    origin = torch.zeros((), dtype=torch.float64)
    for order in (along, grad(along), grad(grad(along))):
        torch.testing.assert_close(grad(order)(origin), slope(origin), rtol=1e-12, atol=1e-14)
        slope = grad(slope)


@pytest.mark.parametrize("name", SOURCES)
def test_many_directions_at_once_give_what_each_gives(name: str) -> None:
    h, signal = torch.randn(6, 5, dtype=torch.float64), _signal(6)
    source = built(SOURCES[name](), h)
    source.estimate(h, signal)
    directions = torch.randn(4, 6, 5, dtype=torch.float64)

    def third(u: Tensor) -> Tensor:
        found: Tensor = grad(grad(grad(lambda e: implied_loss(source, h + e * u, signal))))(h.new_zeros(()))
        return found

    each = torch.stack([third(u) for u in directions])
    torch.testing.assert_close(vmap(third)(directions), each, rtol=1e-10, atol=1e-12)


def test_at_a_step_that_does_not_go_on_only_local_sources_of_a_sum_imply_something() -> None:
    h = torch.randn(6, 5)
    source = built(Sum(LocalLoss(3), SyntheticGradient()), h)
    leaf = h.clone().requires_grad_()
    implied_loss(source, leaf, _signal(6, goes_on=False)).backward()
    local = next(iter(source.sources))
    torch.testing.assert_close(leaf.grad, local.estimate(h, _signal(6)))


@pytest.mark.parametrize(
    "source",
    [
        TrueGradient(),
        NoGradient(),
        MixedGradient(SyntheticGradient()),
        DirectFeedbackAlignment(3),
        OwnLabels(TrueGradient(), lambda target: target),
        Sum(LocalLoss(3), TrueGradient()),
    ],
)
def test_source_that_implies_no_loss_is_named(source: Any) -> None:
    with pytest.raises(TypeError, match=r"(TrueGradient|NoGradient|MixedGradient|DirectFeedbackAlignment) implies no"):
        implied_loss(built(source, torch.randn(6, 5)), torch.randn(6, 5), _signal(6))


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (LocalLoss(3, "mlp"), "BatchNorm1d"),
        (SyntheticGradient(MLP()), "BatchNorm1d"),
        (SyntheticGradient(nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 5))), "Dropout"),
    ],
)
def test_network_that_does_not_work_on_each_sample_by_itself_is_refused(source: Any, kind: str) -> None:
    h = torch.randn(6, 5)
    with pytest.raises(ValueError, match=f"each sample by itself, got .*{kind}"):
        implied_loss(built(source, h), h, _signal(6))
