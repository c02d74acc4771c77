"""Does a recurrent network learn from beyond its truncation exactly as the equations say?

Letters: K windows of T steps, N samples, H units, F inputs. Everything is in float64 beside a twin written out.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import MLP, InTurn, LossOfSteps, Members, RecurrentDNI, Unrolled

N, FEATURES, H, T = 3, 2, 4, 2


class _Tanh(nn.Module):
    """A cell of the user's own, its state one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(FEATURES + H, H)

    def forward(self, x: Tensor, state: Tensor | None) -> Tensor:
        state = x.new_zeros(x.shape[0], H) if state is None else state
        return self.map(torch.cat([x, state], dim=1)).tanh()


CORES: dict[str, Callable[[], nn.Module]] = {
    "rnn": lambda: nn.RNN(FEATURES, H),
    "gru": lambda: nn.GRU(FEATURES, H),
    "lstm": lambda: nn.LSTM(FEATURES, H),
    "lstm-of-two-layers": lambda: nn.LSTM(FEATURES, H, num_layers=2),
    "lstm-cell": lambda: Unrolled(nn.LSTMCell(FEATURES, H)),
    "own-cell": lambda: Unrolled(_Tanh()),
}
cores = pytest.mark.parametrize("name", CORES)


def make_core(name: str) -> nn.Module:
    torch.manual_seed(0)
    return CORES[name]().double()


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def squared_error(wanted: Tensor) -> LossOfSteps:
    return lambda y, steps: (y - wanted[steps]).square().sum()


def task(num_steps: int) -> tuple[Tensor, LossOfSteps]:
    return random(num_steps, N, FEATURES), squared_error(random(num_steps, N, H, seed=2))


def members(state: Members) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)  # type: ignore[return-value]


def rows(state: Members, core: nn.Module) -> Tensor:
    """(N, S), written out: torch's recurrent modules have their layers first."""
    if isinstance(core, Unrolled):
        return torch.cat(list(members(state)), dim=1)
    return torch.cat([member.transpose(0, 1).reshape(N, -1) for member in members(state)], dim=1)


def leaves(state: Members) -> Members:
    made = tuple(member.detach().requires_grad_() for member in members(state))
    return made if isinstance(state, tuple) else made[0]


def grads(core: nn.Module) -> list[Tensor]:
    found = [parameter.grad for parameter in core.parameters()]
    return [grad.clone() for grad in found if grad is not None]


def truncated(core: nn.Module, x: Tensor, loss_of: LossOfSteps) -> list[Tensor]:
    """Plain truncated backpropagation through time, from the last window to the first."""
    twin, state, losses = copy.deepcopy(core), None, []
    for start in range(0, len(x), T):
        y, end = twin(x[start : start + T], state)
        losses.append(loss_of(y, slice(start, start + T)))
        state = tuple(member.detach() for member in end) if isinstance(end, tuple) else end.detach()
    for loss in reversed(losses):
        loss.backward()
    return grads(twin)


def full(core: nn.Module, x: Tensor, loss_of: LossOfSteps) -> list[Tensor]:
    """Backpropagation through all of x."""
    twin = copy.deepcopy(core)
    loss_of(twin(x, None)[0], slice(0, len(x))).backward()
    return grads(twin)


class _Table(nn.Module):
    """Answers rows that it knows with what it holds for them: an oracle."""

    def __init__(self, known: Tensor, answers: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.known, self.answers = known, answers

    def forward(self, h: Tensor) -> Tensor:
        distance, nearest = torch.cdist(h, self.known).min(dim=1)
        assert distance.max() < 1e-9
        return self.scale * self.answers[nearest]


def oracle(core: nn.Module, x: Tensor, loss_of: LossOfSteps) -> _Table:
    """The gradient of all later losses at every boundary of x, by running the rest of x from it."""
    twin, state, known, answers = copy.deepcopy(core), None, [], []
    for start in range(T, len(x) + 1, T):
        state = leaves(twin(x[start - T : start], state)[1])
        known.append(rows(state, core).detach())
        if start == len(x):
            answers.append(torch.zeros_like(known[-1]))
        else:
            later = loss_of(twin(x[start:], state)[0], slice(start, len(x)))
            gradient = torch.autograd.grad(later, members(state), materialize_grads=True)
            answers.append(rows(gradient if isinstance(state, tuple) else gradient[0], core))
    return _Table(torch.cat(known), torch.cat(answers))


def linear(size: int, seed: int = 3) -> nn.Linear:
    made = nn.Linear(size, size).double()
    with torch.no_grad():
        made.weight.copy_(0.3 * random(size, size, seed=seed))
        made.bias.copy_(0.3 * random(size, seed=seed + 1))
    return made


def state_size(core: nn.Module) -> int:
    return rows(core(random(1, N, FEATURES), None)[1], core).shape[1]


@cores
def test_a_zero_synthesizer_is_truncated_backpropagation_bit_for_bit(name: str) -> None:
    core, (x, loss_of) = make_core(name), task(7)  # the last window is shorter
    expected = truncated(core, x, loss_of)
    span = RecurrentDNI(core, horizon=T).learn(x, loss_of)
    torch.testing.assert_close(grads(core), expected, rtol=0, atol=0)
    assert span.synthetic.shape[:2] == (4, N) and not span.synthetic.any()


@cores
def test_an_oracle_gives_the_gradient_of_full_backpropagation(name: str) -> None:
    core, (x, loss_of) = make_core(name), task(6)
    expected = full(core, x, loss_of)
    learner = RecurrentDNI(core, oracle(core, x, loss_of), horizon=T, injection=1.0)
    span = learner.learn(x, loss_of, done=torch.ones(N, dtype=torch.bool))
    torch.testing.assert_close(grads(core), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(span.targets[1:], span.synthetic[:-1], rtol=1e-12, atol=1e-12)
    assert span.synthesizer_loss < 1e-20
    assert not torch.allclose(truncated(core, x, loss_of)[0], expected[0])


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_windows_learned_one_span_at_a_time_give_the_same_as_all_in_one(name: str) -> None:
    core, (x, loss_of) = make_core(name), task(6)
    expected = full(core, x, loss_of)
    learner = RecurrentDNI(core, oracle(core, x, loss_of), horizon=T, injection=1.0, optimizer=_never)
    for start in range(0, 6, T):
        inside = partial(_shifted, loss_of, start)
        learner.learn(x[start : start + T], inside)
    torch.testing.assert_close(grads(core), expected, rtol=1e-12, atol=1e-12)
    assert learner.num_spans == 3


def _shifted(loss_of: LossOfSteps, start: int, y: Tensor, steps: slice) -> Tensor:
    return loss_of(y, slice(steps.start + start, steps.stop + start))


_never = partial(torch.optim.SGD, lr=0.0)


@cores
def test_the_bootstrapped_target_is_the_product_with_the_jacobian_written_out(name: str) -> None:
    core, (x, loss_of) = make_core(name), task(2 * T)
    synthesizer = linear(state_size(core))
    learner = RecurrentDNI(core, synthesizer, horizon=T, injection=0.1, discount=0.7, optimizer=_never)
    learner.learn(x[:T], loss_of)
    start = leaves(learner.state)  # type: ignore[arg-type]
    span = learner.learn(x[T:], partial(_shifted, loss_of, T))
    y, end = core(x[T:], start)
    predicted = synthesizer(rows(end, core)).detach()
    total = loss_of(y, slice(T, 2 * T)) + 0.7 * (predicted * rows(end, core)).sum()
    gradient = torch.autograd.grad(total, members(start))
    expected = rows(gradient if isinstance(start, tuple) else gradient[0], core)
    torch.testing.assert_close(span.targets[0], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(span.synthetic[0], predicted, rtol=1e-12, atol=1e-12)


def test_injection_moves_the_parameters_and_not_the_targets_and_discount_the_reverse() -> None:
    def learned(injection: float, discount: float) -> tuple[Tensor, Tensor]:
        core, (x, loss_of) = make_core("lstm"), task(3 * T)
        learner = RecurrentDNI(core, linear(2 * H), horizon=T, injection=injection, discount=discount)
        targets = learner.learn(x, loss_of).targets
        return grads(core)[0], targets

    (a, a_targets), (b, b_targets), (c, c_targets) = learned(0.1, 1.0), learned(1.0, 1.0), learned(0.1, 0.5)
    assert not torch.allclose(a, b) and not torch.allclose(a_targets, c_targets)
    torch.testing.assert_close(a, c, rtol=0, atol=0)
    torch.testing.assert_close(a_targets, b_targets, rtol=1e-12, atol=1e-12)


@cores
@pytest.mark.parametrize("injection", [0.1, 1.0])
def test_lambda_of_one_is_backpropagation_through_the_span(name: str, injection: float) -> None:
    core, (x, loss_of) = make_core(name), task(6)
    expected = full(core, x, loss_of)
    learner = RecurrentDNI(core, linear(state_size(core)), horizon=T, injection=injection, bp_lambda=1.0)
    learner.learn(x, loss_of, done=torch.ones(N, dtype=torch.bool))
    torch.testing.assert_close(grads(core), expected, rtol=1e-12, atol=1e-12)


def test_the_return_of_lambda_is_the_recursion_written_out() -> None:
    mix, gamma, alpha = 0.6, 0.9, 0.1
    core, (x, loss_of) = make_core("gru"), task(3 * T)
    synthesizer = linear(H)
    learner = RecurrentDNI(core, synthesizer, horizon=T, injection=alpha, discount=gamma, bp_lambda=mix)
    twin = copy.deepcopy(core)
    span = learner.learn(x, loss_of)
    starts: list[Tensor | None] = [None]
    ends, losses = [], []
    for index in range(3):
        steps = slice(index * T, index * T + T)
        y, end = twin(x[steps], starts[-1])
        losses.append(loss_of(y, steps))
        ends.append(end)
        starts.append(end.detach().requires_grad_())
    predicted = [synthesizer(end[0]).detach()[None] for end in ends]
    used, target = alpha * predicted[2], predicted[2]
    for index in (2, 1, 0):
        parameters = list(twin.parameters())
        gradients = torch.autograd.grad(
            [losses[index], ends[index]], parameters, [torch.ones(()), used], retain_graph=True
        )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        start = starts[index]
        if start is not None:
            pull = partial(torch.autograd.grad, [losses[index], ends[index]], start, retain_graph=True)
            (true,), (bootstrapped,) = pull([torch.ones(()), used]), pull([torch.ones(()), gamma * target])
            torch.testing.assert_close(span.targets[index], bootstrapped[0], rtol=1e-12, atol=1e-12)
            used = mix * true + (1 - mix) * alpha * predicted[index - 1]
            target = mix * bootstrapped + (1 - mix) * predicted[index - 1]
    torch.testing.assert_close(grads(core), grads(twin), rtol=1e-12, atol=1e-12)


def test_one_pass_for_equal_factors_gives_what_two_give() -> None:
    def learned(discount: float) -> Tensor:
        core, (x, loss_of) = make_core("lstm"), task(3 * T)
        return RecurrentDNI(core, linear(2 * H), horizon=T, injection=0.5, discount=discount).learn(x, loss_of).targets

    torch.testing.assert_close(learned(0.5), learned(0.5 + 1e-14), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bp_lambda", [0.0, 0.5])
def test_nothing_crosses_the_end_of_a_sequence(bp_lambda: float) -> None:
    """What sample 0 does after its end, and its state before it, must not matter to the other side."""
    x, loss_of = task(4 * T)
    done = torch.zeros(4, N, dtype=torch.bool)
    done[1, 0] = True
    changed = x.clone()
    changed[2 * T :, 0] += 1.0
    spans, first_inputs = [], []
    for inputs in (x, changed):
        core = make_core("lstm")
        given = inputs.clone().requires_grad_()
        learner = RecurrentDNI(core, linear(2 * H), horizon=T, bp_lambda=bp_lambda, auxiliary=0.5)
        spans.append(learner.learn(given, loss_of, done=done))
        assert given.grad is not None
        first_inputs.append(given.grad[: 2 * T, 0])
    torch.testing.assert_close(*first_inputs, rtol=0, atol=0)
    assert not spans[0].synthetic[1, 0].any() and spans[0].synthetic[1, 1:].all()
    assert not spans[0].targets[2, 0].any() and spans[0].targets[2, 1:].all()
    alone = make_core("lstm")(x[2 * T : 3 * T, :1], None)[1]
    in_span = make_core("lstm")
    learner = RecurrentDNI(in_span, horizon=T)
    learner.learn(x[: 3 * T], loss_of, done=done[:3])
    torch.testing.assert_close([member[:, :1] for member in members(learner.state)], list(alone))  # type: ignore[arg-type]


def test_the_target_is_zero_where_sequences_end_and_carries_no_bootstrap_over_it() -> None:
    core, (x, loss_of) = make_core("gru"), task(2 * T)
    learner = RecurrentDNI(core, linear(H), horizon=T, injection=1.0, optimizer=partial(torch.optim.SGD, lr=0.01))
    learner.learn(x[:T], loss_of)
    start = leaves(learner.state)  # type: ignore[arg-type]
    synthesizer = copy.deepcopy(learner.synthesizer.networks[0])
    span = learner.learn(x[T:], partial(_shifted, loss_of, T), done=torch.ones(N, dtype=torch.bool))
    y, end = core(x[T:], start)
    (exact,) = torch.autograd.grad(loss_of(y, slice(T, 2 * T)), members(start))
    torch.testing.assert_close(span.targets[0], exact[0], rtol=1e-12, atol=1e-12)
    # The regression is of the start on that target, and of the end on zero.
    known = torch.cat([members(start)[0][0], end[0]]).detach()
    wanted = torch.cat([exact[0], torch.zeros(N, H)])
    error = (synthesizer(known) - wanted).square().sum() / (2 * N)
    assert span.synthesizer_loss == pytest.approx(error.item())
    (gradient,) = torch.autograd.grad(error, synthesizer.weight)
    moved = synthesizer.weight.detach() - 0.01 * gradient
    torch.testing.assert_close(learner.synthesizer.networks[0].weight.detach(), moved, rtol=1e-12, atol=1e-12)
    assert learner.state is not None and not members(learner.state)[0].any()


def test_the_auxiliary_task_lets_a_window_learn_from_two_horizons_later() -> None:
    def first_window(later: float, auxiliary: float) -> Tensor:
        core, (x, loss_of) = make_core("lstm"), task(3 * T)
        x[T : 2 * T] += later  # what happens between T and 2T after the first window's start
        given = x.clone().requires_grad_()
        learner = RecurrentDNI(core, linear(2 * H), horizon=T, auxiliary=auxiliary)
        learner.learn(given, loss_of)
        assert given.grad is not None
        return given.grad[:T]

    torch.testing.assert_close(first_window(0.0, 0.0), first_window(1.0, 0.0), rtol=0, atol=0)
    assert not torch.allclose(first_window(0.0, 1.0), first_window(1.0, 1.0))


def test_the_auxiliary_gradient_is_that_of_the_squared_error_written_out() -> None:
    core, (x, loss_of) = make_core("gru"), task(2 * T)
    twin, synthesizer = copy.deepcopy(core), linear(H)
    learner = RecurrentDNI(core, synthesizer, horizon=T, injection=0.0, auxiliary=0.3)
    learner.learn(x, loss_of)
    y, end = twin(x[:T], None)
    later, last = twin(x[T:], end.detach())
    error = (synthesizer(end[0]) - synthesizer(last[0]).detach()).square().sum()
    (loss_of(y, slice(0, T)) + 0.3 * error + loss_of(later, slice(T, 2 * T))).backward()
    torch.testing.assert_close(grads(core), grads(twin), rtol=1e-12, atol=1e-12)


def test_the_task_never_moves_the_synthesizer_nor_the_synthesizers_loss_the_task() -> None:
    core, (x, loss_of) = make_core("lstm"), task(2 * T)
    learner = RecurrentDNI(core, linear(2 * H), horizon=T, injection=0.0, auxiliary=0.0)
    expected = truncated(core, x, loss_of)
    before = [parameter.clone() for parameter in core.parameters()]
    span = learner.learn(x, loss_of)
    torch.testing.assert_close(grads(core), expected, rtol=0, atol=0)  # injection 0: it learns in the shadow
    torch.testing.assert_close(list(core.parameters()), before, rtol=0, atol=0)
    assert span.synthesizer_loss > 0


@pytest.mark.parametrize("discount", [0.1, 1.0])
def test_a_network_learns_to_the_bit_by_plain_truncation_while_its_synthesizer_learns_in_the_shadow(
    discount: float,
) -> None:
    (x, loss_of), core = task(6 * T), make_core("lstm")
    twin, state = copy.deepcopy(core), None
    learner = RecurrentDNI(core, MLP(hidden=(6,), batch_norm=False), horizon=T, injection=0.0, discount=discount)
    optimizers = [torch.optim.Adam(network.parameters(), lr=0.1) for network in (core, twin)]
    for start in range(0, len(x), T):
        for optimizer in optimizers:
            optimizer.zero_grad()
        span = learner.learn(x[start : start + T], partial(_shifted, loss_of, start))
        y, end = twin(x[start : start + T], state)
        loss_of(y, slice(start, start + T)).backward()
        state = tuple(member.detach() for member in end)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(list(core.parameters()), list(twin.parameters()), rtol=0, atol=0)
    assert span.synthesizer_loss > 0 and span.synthetic.any()


def test_injection_in_turn_gives_each_span_what_its_factor_gives_and_goes_on_where_it_was_saved() -> None:
    x, loss_of = task(8 * T)

    def make(injection: float | InTurn) -> tuple[RecurrentDNI, torch.optim.Optimizer]:
        core = make_core("lstm")
        return RecurrentDNI(core, linear(2 * H), horizon=T, injection=injection), torch.optim.SGD(
            core.parameters(), 0.05
        )

    def go_on(learner: RecurrentDNI, optimizer: torch.optim.Optimizer, index: int) -> list[Tensor]:
        optimizer.zero_grad()
        start = 2 * T * index
        learner.learn(x[start : start + 2 * T], partial(_shifted, loss_of, start))
        optimizer.step()
        return grads(learner.core)

    turns, by_hand = make(InTurn((1, 3), (0.0, 0.5))), make(0.0)
    for index, injection in enumerate((0.0, 0.5, 0.5, 0.0)):
        by_hand[0].injection = injection
        expected = go_on(*by_hand, index)
        if index == 2:
            saved = turns[0].state_dict()
            turns = make(InTurn((1, 3), (0.0, 0.5)))
            turns[0].load_state_dict(saved)
        torch.testing.assert_close(go_on(*turns, index), expected, rtol=0, atol=0)


def test_two_networks_on_different_clocks_are_joined_by_the_gradient_of_what_passes_between_them() -> None:
    """The fast network's output at each window's end is a step of the slow one: together they are one network."""
    (x, fast_loss), fast = task(3 * T), make_core("lstm")
    torch.manual_seed(1)
    slow = nn.GRU(H, H).double()
    slow_loss = squared_error(random(3, N, H, seed=5))
    twins = copy.deepcopy(fast), copy.deepcopy(slow)
    y, _ = twins[0](x, None)
    (fast_loss(y, slice(0, 3 * T)) + slow_loss(twins[1](y[T - 1 :: T], None)[0], slice(0, 3))).backward()

    messages = fast(x, None)[0][T - 1 :: T].detach().requires_grad_()
    RecurrentDNI(slow, horizon=1, bp_lambda=1.0).learn(messages, slow_loss)
    gradient = messages.grad  # dL/dm of each message: what a source at the boundary predicts, and learns from
    assert gradient is not None

    def with_message(y: Tensor, steps: slice) -> Tensor:
        return fast_loss(y, steps) + (y[-1] * gradient[steps.start // T]).sum()

    RecurrentDNI(fast, horizon=T, bp_lambda=1.0).learn(x, with_message)
    for made, twin in zip((fast, slow), twins, strict=True):
        torch.testing.assert_close(grads(made), grads(twin), rtol=1e-12, atol=1e-12)


def test_a_saved_learner_goes_on_alike_in_one_never_built() -> None:
    def make() -> tuple[RecurrentDNI, torch.optim.Optimizer]:
        core = make_core("lstm")
        learner = RecurrentDNI(core, MLP(hidden=(6,), batch_norm=False), horizon=T, auxiliary=0.5, bp_lambda=0.3)
        return learner, torch.optim.SGD(core.parameters(), lr=0.05)

    def go_on(learner: RecurrentDNI, optimizer: torch.optim.Optimizer, seeds: range) -> list[Any]:
        found: list[Any] = []
        for seed in seeds:
            optimizer.zero_grad()
            done = random(2, N, seed=seed) > 1.0
            span = learner.learn(random(2 * T, N, FEATURES, seed=seed), task(2 * T)[1], done=done)
            optimizer.step()
            found += [span.loss, span.synthesizer_loss, span.auxiliary_loss, span.targets.sum().item()]
        return found

    learner, optimizer = make()
    go_on(learner, optimizer, range(4))
    stream = io.BytesIO()
    torch.save(learner.state_dict(), stream)
    stream.seek(0)
    loaded, other = make()
    loaded.load_state_dict(torch.load(stream, weights_only=True))
    assert go_on(learner, optimizer, range(4, 8)) == go_on(loaded, other, range(4, 8))
    assert loaded.num_spans == 8


def test_a_learned_synthesizer_remembers_what_truncation_forgets() -> None:
    """A sign shown at the first of six noisy steps is asked for at the last, in windows of two."""

    def final_loss(injection: float) -> float:
        torch.manual_seed(0)
        core, readout = nn.LSTM(3, 16), nn.Linear(16, 1)
        fast = partial(torch.optim.Adam, lr=5e-3)
        learner = RecurrentDNI(core, horizon=T, injection=injection, optimizer=fast)
        parameters = [*core.parameters(), *readout.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=3e-3)
        generator, losses = torch.Generator().manual_seed(1), []
        for _ in range(320):
            bit = torch.randint(0, 2, (32, 1), generator=generator).float()
            x = torch.randn(6, 32, 3, generator=generator)
            x[0, :, :1] = 2 * bit - 1

            def loss_of(y: Tensor, steps: slice, bit: Tensor = bit) -> Tensor:
                error = F.binary_cross_entropy_with_logits(readout(y[-1]), bit, reduction="sum")
                return error if steps.stop == 6 else 0 * error

            optimizer.zero_grad()
            learner.begin()
            losses.append(learner.learn(x, loss_of, done=torch.ones(32, dtype=torch.bool)).loss)
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.grad /= 32
            optimizer.step()
        return sum(losses[-20:]) / 20

    learned, zero = final_loss(1.0), final_loss(0.0)
    assert learned < 0.8 * zero, (learned, zero)


def test_what_does_not_fit_is_refused_with_what_to_do() -> None:
    x, loss_of = task(4)
    with pytest.raises(ValueError, match="horizon 0"):
        RecurrentDNI(make_core("gru"), horizon=0)
    with pytest.raises(ValueError, match=r"discount and bp_lambda must lie in \[0, 1\], got discount 1.5"):
        RecurrentDNI(make_core("gru"), horizon=2, discount=1.5)
    with pytest.raises(ValueError, match="injection must not be negative, got -1"):
        RecurrentDNI(make_core("gru"), horizon=2, injection=-1.0)
    with pytest.raises(ValueError, match=r"injection must not be negative, got -0\.1"):
        RecurrentDNI(make_core("gru"), horizon=2, injection=lambda span: -0.1).learn(x, loss_of)
    with pytest.raises(ValueError, match="auxiliary must not be negative, got -1"):
        RecurrentDNI(make_core("gru"), horizon=2, auxiliary=-1.0)
    with pytest.raises(ValueError, match="GRU with batch_first=True"):
        RecurrentDNI(nn.GRU(2, 4, batch_first=True), horizon=2)
    learner = RecurrentDNI(make_core("gru"), horizon=2)
    with pytest.raises(ValueError, match=r"scalar, got shape \(2, 3, 4\) for steps 0 to 1\. Sum it"):
        learner.learn(x, lambda y, steps: y)
    with pytest.raises(ValueError, match=r"done must be bool of shape \(3,\).* or \(2, 3\)"):
        learner.learn(x, loss_of, done=torch.zeros(5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"x must be \(steps, N, \.\.\.\)"):
        learner.learn(x[:0], loss_of)
    learner.learn(x, loss_of)
    with pytest.raises(ValueError, match=r"carried from the span before is of 3 samples.*begin\(\)"):
        learner.learn(x[:, :2], loss_of)
    with pytest.raises(ValueError, match=r"samples of x on axis 0, got shape .*Set sample_axis"):
        RecurrentDNI(make_core("gru"), horizon=2, sample_axis=0).learn(x, loss_of)


def test_a_window_that_learns_nothing_by_itself_is_passed_over() -> None:
    core, (x, _) = make_core("gru"), task(4)
    learner = RecurrentDNI(core, horizon=2)
    learner.learn(x, lambda y, steps: y.new_zeros(()) if steps.start == 0 else y.square().sum())
    assert all(grad.isfinite().all() for grad in grads(core)) and grads(core)[0].any()
