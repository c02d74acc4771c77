"""Does every source keep the contract of `GradientSource`?

To put a new source under the contract, add a row to CASES.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import (
    MLP,
    ConditionalSyntheticGradient,
    Convolutional,
    ConvolutionalHead,
    Critic,
    DirectFeedbackAlignment,
    GradientSource,
    Kickback,
    LocalLoss,
    LossGradient,
    LowRank,
    Members,
    MixedGradient,
    MLPHead,
    Need,
    NoGradient,
    OwnLabels,
    Shadow,
    ShrunkGradient,
    Signal,
    SobolevCritic,
    Sum,
    SyntheticGradient,
    TrueGradient,
    ValueMLP,
    VirtualGradient,
    ZeroGradient,
    as_tuple,
    carriers,
    like,
)

N = 24


@dataclass(frozen=True)
class Case:
    """A way to make a source, and the kinds of h that it serves."""

    make: Callable[[], GradientSource]
    serves: tuple[str, ...] = ("features", "tokens", "images", "tuple")


def _first_member_loss(h: Members, target: Tensor) -> Tensor:
    return F.cross_entropy(carriers(h)[0], target)


CASES = {
    "true": Case(TrueGradient),
    "shrunk": Case(lambda: ShrunkGradient(0.3)),
    "zero": Case(ZeroGradient),
    "none": Case(NoGradient),
    "loss": Case(lambda: LossGradient(_first_member_loss), serves=("features", "tuple")),
    "synthetic-linear": Case(SyntheticGradient),
    "synthetic-low-rank": Case(lambda: SyntheticGradient(LowRank(rank=4))),
    "synthetic-mlp": Case(lambda: SyntheticGradient(MLP(hidden=(32,)))),
    "synthetic-convolutional": Case(lambda: SyntheticGradient(Convolutional((8,), 3)), serves=("images",)),
    "synthetic-own": Case(lambda: SyntheticGradient(nn.Linear(12, 12)), serves=("features", "tuple")),
    "conditional-linear": Case(ConditionalSyntheticGradient),
    "conditional-mlp": Case(lambda: ConditionalSyntheticGradient(10, MLP(hidden=(32,)))),
    "conditional-embedding": Case(lambda: ConditionalSyntheticGradient(10, embedding_dim=5)),
    "conditional-convolutional": Case(
        lambda: ConditionalSyntheticGradient(10, Convolutional((8,), 3)), serves=("images",)
    ),
    "mixed": Case(lambda: MixedGradient(ConditionalSyntheticGradient(10, MLP(hidden=(32,))), 0.3)),
    "mixed-true": Case(lambda: MixedGradient(SyntheticGradient(), 1.0)),
    "local-linear": Case(LocalLoss),
    "local-mlp": Case(lambda: LocalLoss(10, MLPHead(num_hidden=2, width=16))),
    "local-convolutional": Case(lambda: LocalLoss(10, ConvolutionalHead(reduce=2)), serves=("images",)),
    "local-own": Case(lambda: LocalLoss(10, nn.Linear(12, 10)), serves=("features", "tokens", "tuple")),
    "predsim": Case(lambda: LocalLoss(similarity_weight=0.99), serves=("features", "images", "tuple")),
    "sim": Case(lambda: LocalLoss(similarity_weight=1.0), serves=("features", "images", "tuple")),
    # Of a pooled image a linear model says the same at all pixels of a pool: too little for a gradient drawn at random.
    "virtual-linear": Case(lambda: VirtualGradient(10, "linear"), serves=("features", "tokens", "tuple")),
    "virtual-mlp": Case(VirtualGradient),
    "virtual-convolutional": Case(lambda: VirtualGradient(10, ConvolutionalHead(reduce=2)), serves=("images",)),
    "virtual-labels": Case(lambda: VirtualGradient(label_weight=1.0)),
    "direct-feedback": Case(DirectFeedbackAlignment),
    "kickback": Case(Kickback),
    "critic": Case(lambda: Critic(10, ValueMLP((32,)))),
    "critic-embedding": Case(lambda: Critic(10, ValueMLP((32,)), embedding_dim=5)),
    "sobolev": Case(lambda: SobolevCritic(10, ValueMLP((32,)))),
    "mixed-direct-feedback": Case(lambda: MixedGradient(DirectFeedbackAlignment(), 0.3)),
    "own-labels": Case(lambda: OwnLabels(LocalLoss(5), lambda target: target // 2)),
    "sum": Case(lambda: Sum(LocalLoss(), ConditionalSyntheticGradient(10, MLP(hidden=(32,))))),
    "sum-true": Case(lambda: Sum(LocalLoss(), TrueGradient(), NoGradient())),
    "shadow": Case(lambda: Shadow(ConditionalSyntheticGradient(10, MLP(hidden=(32,))))),
}

rows = pytest.mark.parametrize(
    ("case", "kind"),
    [pytest.param(case, kind, id=f"{name}-{kind}") for name, case in CASES.items() for kind in case.serves],
)


def _stage_output(kind: str, pixels: Tensor) -> Members:
    """A real h: what a first stage makes of digits."""
    match kind:
        case "features":
            return nn.Linear(64, 12)(pixels).relu()
        case "tokens":
            return nn.Linear(8, 12)(pixels.view(-1, 8, 8)).relu()
        case "images":
            return nn.Conv2d(1, 6, 3, padding=1)(pixels.view(-1, 1, 8, 8)).relu()
    return _stage_output("features", pixels), torch.arange(len(pixels))


@pytest.fixture
def h(kind: str, digits: tuple[Tensor, Tensor]) -> Members:
    return _stage_output(kind, digits[0][:N])


@pytest.fixture
def signal(h: Members, digits: tuple[Tensor, Tensor]) -> Signal:
    gradient = like(h, [torch.randn_like(member) for member in carriers(h)])
    error, loss = torch.randn(N, 10), torch.rand(N)
    return Signal(step=0, target=digits[1][:N], gradient=gradient, error=error, loss=loss)


def _built(case: Case, h: Members) -> Any:
    source = case.make()
    source.build(h, generator=torch.Generator().manual_seed(1))
    return source


def _learn(source: Any, h: Members, signal: Signal, *, times: int) -> list[float]:
    return [source.learn(h, signal) for _ in range(times)]


def _leaves(state: Any) -> list[Any]:
    """Everything in a state dict, in order."""
    if isinstance(state, dict):
        return [leaf for key, value in state.items() for leaf in [key, *_leaves(value)]]
    if isinstance(state, list | tuple):
        return [leaf for value in state for leaf in _leaves(value)]
    return [state]


def _same_state(first: Any, second: Any) -> bool:
    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, Tensor) else a == b

    pairs = zip(_leaves(first), _leaves(second), strict=True)
    return all(same(a, b) for a, b in pairs)


def _saved_and_loaded(source: Any, case: Case) -> Any:
    stream = io.BytesIO()
    torch.save(source.state_dict(), stream)
    stream.seek(0)
    loaded: Any = case.make()
    loaded.load_state_dict(torch.load(stream, weights_only=True))
    return loaded


def _assert_same_estimates(first: Any, second: Any, h: Members, signal: Signal) -> None:
    for a, b in zip(as_tuple(first.estimate(h, signal)), as_tuple(second.estimate(h, signal)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@rows
def test_an_estimate_is_shaped_as_h_and_carries_no_graph(case: Case, h: Members, signal: Signal) -> None:
    source = _built(case, h)
    _learn(source, h, signal, times=2)
    estimate = source.estimate(h, signal)
    if estimate is None:
        assert isinstance(source, NoGradient)
        return
    assert isinstance(estimate, tuple) == isinstance(h, tuple)
    for member, found in zip(as_tuple(h), as_tuple(estimate), strict=True):
        assert member is not None
        if not member.is_floating_point():
            assert found is None
            continue
        assert found is not None and found.shape == member.shape and found.dtype == member.dtype
        assert not found.requires_grad


@rows
def test_an_estimate_changes_no_state_and_repeats(case: Case, h: Members, signal: Signal) -> None:
    source = _built(case, h)
    _learn(source, h, signal, times=2)
    before = copy.deepcopy(source.state_dict())
    first = carriers(source.estimate(h, signal))
    second = carriers(source.estimate(h, signal))
    assert _same_state(before, source.state_dict())
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@rows
def test_learning_reduces_the_loss_on_a_fixed_batch(case: Case, h: Members, signal: Signal) -> None:
    source = _built(case, h)
    before = copy.deepcopy(source.state_dict())
    losses = _learn(source, h, signal, times=40)
    assert all(isinstance(loss, float) for loss in losses)
    if source.learns_from is Need.NONE:
        assert set(losses) == {0.0} and _same_state(before, source.state_dict())
    else:
        assert losses[-1] < 0.999 * losses[0]


@rows
def test_neither_estimate_nor_learn_reaches_the_stage_below(case: Case, h: Members, signal: Signal) -> None:
    source = _built(case, h)
    for member in carriers(h):
        member.retain_grad()
    source.estimate(h, signal)
    _learn(source, h, signal, times=1)
    assert all(member.grad is None for member in carriers(h))


@rows
def test_a_saved_source_loads_into_one_never_built_and_goes_on_alike(case: Case, h: Members, signal: Signal) -> None:
    source = _built(case, h)
    _learn(source, h, signal, times=3)
    loaded = _saved_and_loaded(source, case)
    _assert_same_estimates(source, loaded, h, signal)
    assert _learn(source, h, signal, times=3) == _learn(loaded, h, signal, times=3)
    _assert_same_estimates(source, loaded, h, signal)
    assert _same_state(source.state_dict(), loaded.state_dict())


@rows
def test_a_copy_is_independent(case: Case, h: Members, signal: Signal) -> None:
    source = _built(case, h)
    _learn(source, h, signal, times=2)
    other = copy.deepcopy(source)
    before = copy.deepcopy(source.state_dict())
    _learn(other, h, signal, times=2)
    assert _same_state(before, source.state_dict())
    _learn(source, h, signal, times=2)
    assert _same_state(source.state_dict(), other.state_dict())


@rows
def test_copies_made_before_building_build_alike(case: Case, h: Members, signal: Signal) -> None:
    original: Any = case.make()
    other = copy.deepcopy(original)
    for source in (original, other):
        source.build(h, generator=torch.Generator().manual_seed(1))
        _learn(source, h, signal, times=2)
    assert _same_state(original.state_dict(), other.state_dict())


@rows
def test_a_shorter_last_batch_is_served(case: Case, h: Members, signal: Signal) -> None:
    source = _built(case, h)
    short = tuple(member[:5] for member in as_tuple(h) if member is not None)
    gradient = like(h, [member[:5] for member in carriers(signal.gradient)])
    end = Signal(step=1, target=signal.target[:5], gradient=gradient, error=signal.error[:5], loss=signal.loss[:5])
    tail = short if isinstance(h, tuple) else short[0]
    source.learn(tail, end)
    estimate = source.estimate(tail, end)
    assert estimate is None or carriers(estimate)[0].shape == carriers(tail)[0].shape
