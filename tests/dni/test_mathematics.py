"""Do synthetic gradients do what the papers say?

Acceptance tests 1-7 of the notes on synthetic gradients, section 7. The chain of stages is written out here,
with a detach at every boundary: sources are tensors in, tensors out, and need no runtime. Letters: N samples,
D inputs, H outputs of a layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import (
    ConditionalSyntheticGradient,
    Members,
    Need,
    Shadow,
    Signal,
    SyntheticGradient,
    TrueGradient,
)

WIDTH = 32


def _stages(depth: int = 3) -> list[nn.Module]:
    """A fully connected classifier of digits, a boundary after each hidden layer."""
    torch.manual_seed(3)
    widths = [64] + [WIDTH] * (depth - 1)
    hidden = [nn.Sequential(nn.Linear(a, WIDTH), nn.Tanh()) for a in widths[:-1]]
    return [*hidden, nn.Linear(WIDTH, 10)]


def _loss(y: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(y, target, reduction="sum")


def _accumulate(
    stages: Sequence[nn.Module], sources: Sequence[Any], x: Tensor, target: Tensor, *, step: int = 0
) -> list[tuple[Tensor, Tensor]]:
    """One step of DNI, bottom up: fill each stage's `.grad`; return (h, what came down to it) per boundary.

    Backward of a stage runs on its source's estimate, or on the gradient from above for a source that waits
    for it.
    """
    leaves, outputs = [], []
    h = x
    for stage in stages:
        leaves.append(h.detach().requires_grad_())
        outputs.append(stage(leaves[-1]))
        h = outputs[-1]
    _loss(outputs[-1], target).backward()
    for index in reversed(range(len(stages) - 1)):
        signal = Signal(step=step, target=target, gradient=leaves[index + 1].grad)
        outputs[index].backward(sources[index].estimate(outputs[index].detach(), signal))
    return [(outputs[i].detach(), leaves[i + 1].grad) for i in range(len(stages) - 1)]


def _train(
    stages: Sequence[nn.Module],
    sources: Sequence[Any],
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    learning: bool = True,
) -> float:
    """Plain SGD over the batches; the mean loss of the last ten."""
    optimizers = [torch.optim.SGD(stage.parameters(), lr=0.1) for stage in stages]
    losses = []
    for step, (x, target) in enumerate(batches):
        with torch.no_grad():
            losses.append(_loss(nn.Sequential(*stages)(x), target).item() / len(x))
        boundaries = _accumulate(stages, sources, x, target, step=step)
        for source, (h, gradient) in zip(sources, boundaries, strict=True):
            if learning:
                source.learn(h, Signal(step=step, target=target, gradient=gradient))
        for stage, optimizer in zip(stages, optimizers, strict=True):
            for parameter in stage.parameters():
                if parameter.grad is not None:
                    parameter.grad /= len(x)
            optimizer.step()
            optimizer.zero_grad()
    return sum(losses[-10:]) / 10


def _built(make: Callable[[], Any], stages: Sequence[nn.Module], x: Tensor) -> list[Any]:
    sources = []
    for index, stage in enumerate(stages[:-1]):
        x = stage(x)
        sources.append(make())
        sources[-1].build(x.detach(), generator=torch.Generator().manual_seed(index))
    return sources


def _woken(sources: list[Any]) -> list[Any]:
    """Synthesizers that send something: a new one sends zero."""
    torch.manual_seed(5)
    for source in sources:
        for parameter in source.parameters():
            nn.init.normal_(parameter, std=0.1)
    return sources


def _gradients(stages: Sequence[nn.Module]) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for stage in stages for p in stage.parameters()]


def _parameters(stages: Sequence[nn.Module]) -> list[Tensor]:
    return [p.detach().clone() for stage in stages for p in stage.parameters()]


@pytest.fixture
def batches(digits: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """160 batches of 64 digits, drawn with a fixed seed from the first 1500; the rest is held out."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 1500, (160, 64), generator=generator)
    return [(digits[0][rows], digits[1][rows]) for rows in drawn]


@pytest.fixture
def batch(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return batches[0]


# 1. A zero synthesizer is no signal at all.


class _NoSignal(nn.Module):
    """Nothing comes down: only the last stage learns."""

    def estimate(self, h: Tensor, signal: Signal) -> Tensor:
        return torch.zeros_like(h)


def test_zero_synthesizers_train_bit_for_bit_as_if_no_signal_came_down(
    batches: list[tuple[Tensor, Tensor]],
) -> None:
    with_zero, only_last = _stages(), _stages()
    sources = _built(SyntheticGradient, with_zero, batches[0][0])
    _train(with_zero, sources, batches[:10], learning=False)
    _train(only_last, [_NoSignal(), _NoSignal()], batches[:10], learning=False)
    torch.testing.assert_close(_parameters(with_zero), _parameters(only_last), rtol=0, atol=0)
    torch.testing.assert_close(_parameters(with_zero[:2]), _parameters(_stages()[:2]), rtol=0, atol=0)


def test_a_live_synthesizer_changes_the_gradients_of_the_stages_below_it_only(
    batch: tuple[Tensor, Tensor],
) -> None:
    zero, live = _stages(), _stages()
    _accumulate(zero, _built(SyntheticGradient, zero, batch[0]), *batch)
    _accumulate(live, _woken(_built(SyntheticGradient, live, batch[0])), *batch)
    for a, b in zip(_gradients(zero[:-1]), _gradients(live[:-1]), strict=True):
        assert a is not None and b is not None and not torch.equal(a, b)
    torch.testing.assert_close(_gradients(zero[-1:]), _gradients(live[-1:]), rtol=0, atol=0)


# 2. An oracle makes decoupled training equal to backprop.


class _Oracle(nn.Module):
    """Recomputes the exact gradient through all the stages above."""

    needs = Need.TARGET
    learns_from = Need.NONE

    def __init__(self, above: Sequence[nn.Module]) -> None:
        super().__init__()
        self._above = list(above)

    def estimate(self, h: Members, signal: Signal) -> Members:
        assert isinstance(h, Tensor) and signal.target is not None
        leaf = h.detach().requires_grad_()
        y: Tensor = leaf
        for stage in self._above:
            y = stage(y)
        return torch.autograd.grad(_loss(y, signal.target), leaf)[0]

    def learn(self, h: Members, signal: Signal) -> float:
        return 0.0


def _oracles(stages: Sequence[nn.Module]) -> list[_Oracle]:
    return [_Oracle(stages[index + 1 :]) for index in range(len(stages) - 1)]


def test_an_oracle_gives_every_parameter_its_backprop_gradient(batch: tuple[Tensor, Tensor]) -> None:
    decoupled, whole = _stages(4), _stages(4)
    _accumulate(decoupled, _oracles(decoupled), *batch)
    _loss(nn.Sequential(*whole)(batch[0]), batch[1]).backward()
    torch.testing.assert_close(_gradients(decoupled), _gradients(whole), rtol=0, atol=0)


def test_true_gradients_through_detached_boundaries_are_backprop(batch: tuple[Tensor, Tensor]) -> None:
    decoupled, whole = _stages(4), _stages(4)
    _accumulate(decoupled, [TrueGradient() for _ in range(3)], *batch)
    _loss(nn.Sequential(*whole)(batch[0]), batch[1]).backward()
    torch.testing.assert_close(_gradients(decoupled), _gradients(whole), rtol=0, atol=0)


def test_a_zero_synthesizer_in_place_of_the_oracle_is_not_backprop(batch: tuple[Tensor, Tensor]) -> None:
    decoupled, whole = _stages(4), _stages(4)
    _accumulate(decoupled, _built(SyntheticGradient, decoupled, batch[0]), *batch)
    _loss(nn.Sequential(*whole)(batch[0]), batch[1]).backward()
    for a, b in zip(_gradients(decoupled[:-1]), _gradients(whole[:-1]), strict=True):
        assert a is not None and b is not None and not torch.allclose(a, b)


# 3. A linear synthesizer at its least-squares optimum is exact for the layer below, however badly it fits.


def _least_squares_error(*, num_inputs: int, num_outputs: int, activation: Any) -> tuple[float, float]:
    """Relative error of the first layer's weight gradient, and R^2 of the fit, of a linear M on
    `activation(Wx + b)`.

    The residual of least squares is orthogonal to (h, 1). With h = Wx + b and W of full column rank, x is a
    linear function of (h, 1), so the residual is orthogonal to x too: sum M(h) x^T = sum g x^T.
    """
    torch.manual_seed(2)
    random = partial(torch.randn, dtype=torch.float64)
    x, weight = random(400, num_inputs), random(num_outputs, num_inputs)
    pre = (x @ weight.T + random(num_outputs)).requires_grad_()
    h = activation(pre)
    # A loss that no linear function of h explains: labels and a nonlinearity stand above it.
    logits = torch.tanh(h @ random(num_outputs, 20)) @ random(20, 5)
    (g,) = torch.autograd.grad(_loss(logits, torch.randint(0, 5, (400,))), h, retain_graph=True)

    source = SyntheticGradient("linear")
    source.build(h.detach(), generator=torch.Generator())
    joined = torch.cat([h.detach(), torch.ones(400, 1, dtype=torch.float64)], dim=1)
    solution = torch.linalg.pinv(joined, rtol=1e-12) @ g
    linear_weight, linear_bias = source.parameters()
    with torch.no_grad():
        linear_weight.copy_(solution[:-1].T)
        linear_bias.copy_(solution[-1])
    estimate = source.estimate(h.detach(), Signal(step=0))
    assert isinstance(estimate, Tensor)

    (true,) = torch.autograd.grad(h, pre, g, retain_graph=True)
    (used,) = torch.autograd.grad(h, pre, estimate)
    error = ((used - true).T @ x).norm() / (true.T @ x).norm()
    explained = 1 - (g - estimate).square().sum() / (g - g.mean(0)).square().sum()
    return error.item(), explained.item()


@pytest.mark.parametrize("num_outputs", [10, 30])
def test_a_least_squares_linear_synthesizer_is_exact_on_a_pre_activation_while_it_fits_badly(
    num_outputs: int,
) -> None:
    error, explained = _least_squares_error(num_inputs=10, num_outputs=num_outputs, activation=lambda h: h * 1)
    assert error < 1e-10
    assert explained < 0.5


@pytest.mark.parametrize(
    ("num_outputs", "activation"), [(30, torch.relu), (5, lambda h: h * 1)], ids=["after relu", "too narrow"]
)
def test_it_is_not_exact_after_an_activation_or_on_too_narrow_a_layer(num_outputs: int, activation: Any) -> None:
    error, _ = _least_squares_error(num_inputs=10, num_outputs=num_outputs, activation=activation)
    assert error > 1e-2


# 4. Bootstrapping: what M_i learns from is M_{i+1}'s output, pulled back through one stage.


def test_a_synthesizer_is_shown_the_one_above_pulled_back_and_the_last_one_the_truth(
    batch: tuple[Tensor, Tensor],
) -> None:
    stages = _stages(4)
    sources = _woken(_built(SyntheticGradient, stages, batch[0]))
    boundaries = _accumulate(stages, sources, *batch)
    for index in range(2):
        h, shown = boundaries[index]
        above, pull_back = torch.func.vjp(stages[index + 1], h)
        (expected,) = pull_back(sources[index + 1].estimate(above, Signal(step=0)))
        torch.testing.assert_close(shown, expected)
    h, shown = boundaries[2]
    true = _Oracle(stages[3:]).estimate(h, Signal(step=0, target=batch[1]))
    torch.testing.assert_close(shown, true)


def test_a_synthesizer_learns_what_the_one_above_believes_and_not_the_truth(
    batch: tuple[Tensor, Tensor],
) -> None:
    x, target = batch[0][:8], batch[1][:8]  # fewer samples than features: a linear map can fit them all
    stages = _stages(3)
    sources = _woken(_built(SyntheticGradient, stages, x))
    h, believed = _accumulate(stages, sources, x, target)[0]
    for step in range(1500):
        sources[0].learn(h, Signal(step=step, gradient=believed))
    learned = sources[0].estimate(h, Signal(step=0))
    true = _Oracle(stages[1:]).estimate(h, Signal(step=0, target=target))
    assert (learned - believed).norm() < 0.02 * believed.norm()
    assert (learned - true).norm() > 0.5 * true.norm()


# 5. The two losses do not reach each other's parameters.


def test_the_task_loss_gives_synthesizers_no_gradient_and_their_own_loss_does(
    batch: tuple[Tensor, Tensor],
) -> None:
    stages = _stages()
    sources = _woken(_built(ConditionalSyntheticGradient, stages, batch[0]))
    (h, gradient), _ = _accumulate(stages, sources, *batch)
    assert all(p.grad is None for source in sources for p in source.parameters())
    before = _gradients(stages)
    sources[0].learn(h, Signal(step=0, target=batch[1], gradient=gradient))
    assert all(p.grad is not None and p.grad.any() for p in sources[0].parameters())
    torch.testing.assert_close(_gradients(stages), before, rtol=0, atol=0)


def test_the_synthesizers_loss_gives_stages_no_gradient_even_with_their_graph_alive(
    batch: tuple[Tensor, Tensor],
) -> None:
    stage = _stages()[0]
    h = stage(batch[0])
    source = SyntheticGradient()
    source.build(h, generator=torch.Generator())
    source.learn(h, Signal(step=0, gradient=torch.randn_like(h)))
    assert all(p.grad is None for p in stage.parameters())
    h.backward(source.estimate(h, Signal(step=0)))
    assert all(p.grad is not None for p in stage.parameters())


# 6. What was learned is worth something.


@pytest.mark.parametrize("make", [SyntheticGradient, ConditionalSyntheticGradient])
def test_a_learned_synthesizer_beats_zero_on_held_out_digits_with_the_model_frozen(
    make: Callable[[], Any], batches: list[tuple[Tensor, Tensor]], digits: tuple[Tensor, Tensor]
) -> None:
    stages = _stages()
    (oracle, _), (source, _) = _oracles(stages), _built(make, stages, batches[0][0])
    for step, (x, target) in enumerate(batches):
        h = stages[0](x).detach()
        true = oracle.estimate(h, Signal(step=step, target=target))
        source.learn(h, Signal(step=step, target=target, gradient=true))
    h, held_out = stages[0](digits[0][1500:]).detach(), Signal(step=0, target=digits[1][1500:])
    true = oracle.estimate(h, held_out)
    assert isinstance(true, Tensor)
    assert (source.estimate(h, held_out) - true).square().sum() < 0.95 * true.square().sum()


def test_training_arms_are_ordered_oracle_then_learned_then_zero(
    batches: list[tuple[Tensor, Tensor]],
) -> None:
    losses = {}
    for arm in ("oracle", "learned", "zero"):
        stages = _stages()
        sources = _oracles(stages) if arm == "oracle" else None
        made = partial(ConditionalSyntheticGradient, optimizer=partial(torch.optim.Adam, lr=3e-3))
        sources = sources or _built(made, stages, batches[0][0])
        losses[arm] = _train(stages, sources, batches, learning=arm == "learned")
    assert losses["oracle"] < losses["learned"] < 0.95 * losses["zero"], losses


# 7. A shadow changes nothing.


def test_a_shadow_that_learns_leaves_every_parameter_bit_identical(
    batches: list[tuple[Tensor, Tensor]],
) -> None:
    plain, shadowed = _stages(), _stages()
    shadows = _built(lambda: Shadow(ConditionalSyntheticGradient(10, "mlp")), shadowed, batches[0][0])
    before = copy.deepcopy(shadows[0].state_dict())
    _train(plain, [TrueGradient(), TrueGradient()], batches[:10])
    _train(shadowed, shadows, batches[:10])
    torch.testing.assert_close(_parameters(plain), _parameters(shadowed), rtol=0, atol=0)
    last = "source.regression.networks.0.synthesizer.map.6.weight"
    assert not before[last].any() and shadows[0].state_dict()[last].any()


def test_learning_below_a_shadow_differs_from_learning_from_its_synthesizer(
    batch: tuple[Tensor, Tensor],
) -> None:
    acting, shadowed = _stages(), _stages()
    sources = _woken(_built(SyntheticGradient, acting, batch[0]))
    _accumulate(acting, sources, *batch)
    _accumulate(shadowed, [Shadow(source) for source in sources], *batch)
    a, b = _gradients(acting)[0], _gradients(shadowed)[0]
    assert a is not None and b is not None and not torch.allclose(a, b)
