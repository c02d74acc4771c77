"""Does a stage that carries state learn by truncated backpropagation through time, bit for bit, and forget nothing?

The twin is a plain loop over torch's own layers, with the states detached by hand.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import Every, SyntheticGradient, Unrolled
from pipeline import Carrying, Config, Data, KeyedBatches, Sgd, StageFailure, StreamBatches, prepare, run_simulated
from pipeline.randomness.keyed import seeded
from pipeline.stages.stash import StashPolicy
from tests.executors import EXECUTORS, Case, each_executor
from tests.faults import FailAtUpdate
from tests.reference import CPU, assert_bit_equal
from tests.spawn import Ranks

NUM_SYMBOLS = 5
DROPOUT = 0.2
EPOCH = 9
"""Windows of a stream."""
STREAMS, WINDOW = 4, 3
STEPS = 15
"""More than an epoch."""


class Readout(nn.Linear):
    """(N, T, F) to logits (N, C, T)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mT.contiguous()


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """A recurrent network on a sequence whose next symbol depends on the two before."""

    steps: int = STEPS
    num_stages: int = 4

    def layers(self) -> list[nn.Module]:
        """Without anything that carries."""
        lstm = nn.LSTM(6, 7, batch_first=True)
        gru = nn.GRU(7, 6, batch_first=True)
        return [nn.Embedding(NUM_SYMBOLS, 6), lstm, gru, Readout(6, NUM_SYMBOLS)]

    def model(self) -> list[nn.Module]:
        """Four stages."""
        embedding, lstm, gru, readout = self.layers()
        return [
            embedding,
            Carrying(lstm, period=EPOCH),
            nn.Sequential(nn.Dropout(DROPOUT), Carrying(gru, period=EPOCH)),
            readout,
        ]

    def batches(self) -> StreamBatches:
        """Nine windows of each of four streams, and a rest."""
        drawn = torch.randint(NUM_SYMBOLS, (STREAMS * WINDOW * EPOCH + 7,), generator=torch.Generator().manual_seed(0))
        following = (drawn + drawn.roll(1)) % NUM_SYMBOLS
        return StreamBatches(drawn, following, num_streams=STREAMS, window=WINDOW)

    def config(self, **settings: object) -> Config:
        """The training as a run; by default with the true gradient."""
        config = Config(
            model=self.model,
            data=lambda: Data(train=self.batches()),
            loss=summed_loss,
            optimizer=Sgd(lr=0.05, momentum=0.9),
            steps=self.steps,
            seed=2,
        )
        return replace(config, **settings)  # type: ignore[arg-type]


def summed_loss(output: Tensor, target: Tensor) -> Tensor:
    """Over steps and samples."""
    return F.cross_entropy(output, target, reduction="sum")


class Crossing(torch.autograd.Function):
    """Lays out h and its gradient as they cross a boundary: the bits of some kernels depend on strides."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return h.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.contiguous()


crossing: Callable[[Tensor], Tensor] = Crossing.apply
SEQUENCE = Sequence()


@cache
def plain_loop(*, carries: bool = True) -> dict[str, Tensor]:
    """Truncated backpropagation through time."""
    seeded(2, "model", 0, device=CPU)
    embedding, lstm, gru, readout = layers = SEQUENCE.layers()
    optimizer = torch.optim.SGD([p for layer in layers for p in layer.parameters()], lr=0.05, momentum=0.9)
    lstm_state = gru_state = None
    for step, (x, target) in zip(range(STEPS), SEQUENCE.batches().start(0), strict=False):
        if step % EPOCH == 0 or not carries:
            lstm_state = gru_state = None
        h, (hidden, cell) = lstm(crossing(embedding(x)), lstm_state)
        seeded(2, "forward/2", step, device=CPU)
        h, state = gru(F.dropout(crossing(h), DROPOUT), gru_state)
        lstm_state, gru_state = (hidden.detach(), cell.detach()), state.detach()
        summed_loss(readout(crossing(h)), target).backward()
        for layer in layers:
            for parameter in layer.parameters():
                parameter.grad /= len(x)
        optimizer.step()
        optimizer.zero_grad()
    values = zip(("0.", "1.core.", "2.1.core.", "3."), layers, strict=True)
    return {prefix + name: value.detach() for prefix, layer in values for name, value in layer.state_dict().items()}


@pytest.mark.parametrize("way", ["from above", "always ready", "at sync steps"])
@pytest.mark.parametrize("executor", each_executor("simulate", "threads", "2 ranks"))
def test_run_equals_the_loop_of_truncated_backpropagation(executor: str, way: str, ranks: Ranks) -> None:
    settings: dict[str, dict[str, Any]] = {
        "from above": {},
        "always ready": {"arrival": "ready", "max_in_flight": (3,)},
        "at sync steps": {"source": SyntheticGradient(), "sync": Every(1)},
    }
    found = EXECUTORS[executor].run(Case(problem=SEQUENCE, settings=settings[way]), ranks)
    assert_bit_equal(found.weights, plain_loop())


def test_a_loop_that_forgets_would_be_noticed() -> None:
    with pytest.raises(AssertionError):
        assert_bit_equal(plain_loop(carries=False), plain_loop())


TEST = [(x[:2], y[:2]) for x, y in (next(SEQUENCE.batches().start(step)) for step in (3, 4, 7))]
"""Evaluation batches, of other streams than those of training."""


@pytest.mark.parametrize("stash", ["hold", "recompute", "weights", "graph"])
def test_neither_what_is_kept_nor_evaluations_nor_probes_change_what_is_carried(stash: StashPolicy) -> None:
    config = SEQUENCE.config(stash=stash, delay=(1,), evaluate_every=4, probe_samples=2)
    run = run_simulated(prepare(replace(config, data=lambda: Data(train=SEQUENCE.batches(), test=TEST))))
    assert_bit_equal(run.export(), plain_loop())


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("first", "second"), [("simulate", "threads"), ("threads", "2 ranks"), ("2 ranks", "simulate")]
)
def test_run_that_failed_and_goes_on_elsewhere_goes_on_from_what_it_carried(
    ranks: Ranks, tmp_path: Path, first: str, second: str
) -> None:
    plain = Sgd(lr=0.05, momentum=0.9)
    settings: dict[str, Any] = {"checkpoint_every": 3}
    failing = settings | {"optimizer": (plain, plain, FailAtUpdate(plain, 7), plain)}
    with pytest.raises((StageFailure, AssertionError), match="scripted fault"):
        EXECUTORS[first].run(Case(problem=SEQUENCE, settings=failing), ranks, folder=tmp_path)  # type: ignore[arg-type]
    case = Case(problem=SEQUENCE, settings=settings, resume=True)  # type: ignore[arg-type]
    outcome = EXECUTORS[second].run(case, ranks, folder=tmp_path)
    assert (outcome.summary["resumed_at"], outcome.summary["resume_exact"]) == (6, True)
    assert_bit_equal(outcome.weights, plain_loop())


def test_evaluation_begins_anew_carries_from_batch_to_batch_and_comes_out_alike_when_it_is_done_again() -> None:
    frozen = SEQUENCE.config(optimizer=Sgd(lr=0.0), evaluate_every=5)
    result = run_simulated(prepare(replace(frozen, data=lambda: Data(train=SEQUENCE.batches(), test=TEST))))
    seeded(2, "model", 0, device=CPU)
    embedding, lstm, gru, readout = SEQUENCE.layers()
    lstm_state = gru_state = None
    loss = 0.0
    with torch.no_grad():
        for x, target in TEST:
            h, lstm_state = lstm(embedding(x), lstm_state)
            h, gru_state = gru(h, gru_state)
            loss += summed_loss(readout(h), target).item()
    assert result.summary["test_loss"] == pytest.approx(loss / 6, rel=1e-6)


# Late gradients


def held_with_its_weights(
    lower: nn.Module, lstm: nn.LSTM, x: Tensor, state: Any
) -> tuple[Any, Any, Callable[..., None]]:
    """The graph and the weights of the forward."""
    before, core = copy.deepcopy((lower, lstm))
    h, after = core(before(x), state)

    def backward(gradient: Tensor) -> None:
        h.backward(gradient)
        for own, old in zip((lower, lstm), (before, core), strict=True):
            for parameter, copied in zip(own.parameters(), old.parameters(), strict=True):
                parameter.grad = copied.grad

    return h, after, backward


def to_be_recomputed(lower: nn.Module, lstm: nn.LSTM, x: Tensor, state: Any) -> tuple[Any, Any, Callable[..., None]]:
    """The input, and the state that the microbatch began with."""
    with torch.no_grad():
        h, after = lstm(lower(x), state)
    return h, after, lambda gradient: lstm(lower(x), state)[0].backward(gradient)


TWINS = {"weights": held_with_its_weights, "recompute": to_be_recomputed}


@pytest.mark.parametrize("stash", ["weights", "recompute"])
def test_late_gradient_is_pulled_back_through_a_forward_that_began_where_the_microbatch_did(stash: StashPolicy) -> None:
    def stages() -> list[nn.Module]:
        embedding, lstm, _, _ = SEQUENCE.layers()
        return [nn.Sequential(embedding, Carrying(lstm)), Readout(7, NUM_SYMBOLS)]

    config = SEQUENCE.config(model=stages, stash=stash, delay=(3,), optimizer=Sgd(lr=0.1))
    seeded(2, "model", 0, device=CPU)
    (embedding, carrying), readout = stages()  # type: ignore[misc]
    waiting: list[tuple[Callable[[Tensor], None], Tensor]] = []
    state = None

    def move(*modules: nn.Module) -> None:
        parameters = [parameter for module in modules for parameter in module.parameters()]
        for parameter in parameters:
            parameter.grad.div_(STREAMS)  # type: ignore[union-attr]
        torch.optim.SGD(parameters, lr=0.1).step()
        torch.optim.SGD(parameters, lr=0.1).zero_grad()

    def pull_back() -> None:
        backward, gradient = waiting.pop(0)
        backward(gradient)
        move(embedding, carrying.core)

    for _, (x, target) in zip(range(STEPS), SEQUENCE.batches().start(0), strict=False):
        h, after, backward = TWINS[stash](embedding, carrying.core, x, state)
        state = tuple(member.detach() for member in after)
        h = h.detach().contiguous().requires_grad_()
        summed_loss(readout(h), target).backward()
        move(readout)
        waiting.append((backward, h.grad))
        if len(waiting) == 3:
            pull_back()
    while waiting:
        pull_back()
    expected = {f"0.0.{name}": value for name, value in embedding.state_dict().items()}
    expected |= {f"0.1.core.{name}": value for name, value in carrying.core.state_dict().items()}
    expected |= {f"1.{name}": value for name, value in readout.state_dict().items()}
    assert_bit_equal(run_simulated(prepare(config)).export(), expected)


# The layer


def test_layer_alone_carries_from_call_to_call_without_a_graph_and_begins_anew_after_its_period() -> None:
    x = torch.randn(5, STREAMS, 2, 3)
    gru = nn.GRU(3, 4, batch_first=True)
    layer = Carrying(gru, period=3)
    state = None
    for step, window in enumerate(x):
        expected, state = gru(window, None if step in (0, 3) else state)
        state = state.detach()
        torch.testing.assert_close(layer(window), expected, rtol=0, atol=0)
    assert layer.carried is not None and not layer.carried.state.requires_grad  # type: ignore[union-attr]
    assert "carried" not in "".join(layer.state_dict())


class Decay(nn.Module):
    """A core of one's own: the mean of what it was given, the newest counting most."""

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        state = x if state is None else (state + x) / 2
        return state, state


def test_cells_unrolled_cells_and_cores_of_ones_own_are_called_as_they_want_it() -> None:
    x = torch.randn(3, STREAMS, 3)
    cell, own = nn.LSTMCell(3, 4), Carrying(Decay())
    single, unrolled = Carrying(cell), Carrying(Unrolled(cell))
    each = torch.stack([single(step) for step in x], dim=1)
    torch.testing.assert_close(unrolled(x.transpose(0, 1)), each, rtol=0, atol=0)
    assert [own(step).shape for step in x] == [x[0].shape] * 3
    torch.testing.assert_close(own(x[0]), (((x[0] + x[1]) / 2 + x[2]) / 2 + x[0]) / 2)


def test_what_is_done_to_the_output_does_not_change_what_is_carried() -> None:
    layer, x = Carrying(Decay()), torch.ones(2, 3)
    with torch.no_grad():
        layer(x.clone()).mul_(0)
        torch.testing.assert_close(layer(x.clone()), torch.ones(2, 3))


def test_copy_of_a_layer_begins_anew_and_so_does_a_run_with_a_layer_that_was_used() -> None:
    layer = Carrying(nn.GRUCell(3, 4))
    layer(torch.randn(2, 3))
    assert copy.deepcopy(layer).carried is None and layer.carried is not None
    x, target = torch.randn(8, 3), torch.arange(8) % 4
    config = Config(
        model=lambda: [layer, nn.Linear(4, 4)],
        data=lambda: Data(train=KeyedBatches(x, target, batch_size=4)),
        loss=nn.CrossEntropyLoss(),
        steps=2,
    )
    run_simulated(prepare(config))
    assert layer.carried is None


def test_microbatch_of_another_size_is_refused() -> None:
    x, target = torch.randn(7, 3), torch.arange(7) % 4
    config = Config(
        model=lambda: [Carrying(nn.GRUCell(3, 4)), nn.Linear(4, 4)],
        data=lambda: Data(train=KeyedBatches(x, target, batch_size=4)),
        loss=nn.CrossEntropyLoss(),
        steps=2,
    )
    with pytest.raises(
        StageFailure, match=r"stage 0 .*GRUCell carries 4 from step 0 and is given 3 at step 1. .*drop_last"
    ):
        run_simulated(prepare(config))


def test_what_cannot_carry_is_refused() -> None:
    with pytest.raises(ValueError, match="period must be at least 1"):
        Carrying(nn.GRUCell(3, 4), period=-1)
    with pytest.raises(ValueError, match="batch_first=True"):
        Carrying(nn.GRU(3, 4))
    with pytest.raises(ValueError, match=r"GRU must be given \(N, T, F\), got \(5, 3\)"):
        Carrying(nn.GRU(3, 4, batch_first=True))(torch.randn(5, 3))
    with pytest.raises(TypeError, match="got Tensor from Forgetful"):
        Carrying(Forgetful())(torch.randn(5, 3))


class Forgetful(nn.Module):
    """Returns no state."""

    def forward(self, x: Tensor, state: object) -> Tensor:
        return x
