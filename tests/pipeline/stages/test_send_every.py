"""Do two networks on different clocks learn what plain loops say they do, in every executor?

The twin is written out: A, of two stages, takes every microbatch and has a task of its own; B takes every third and has
the loss. Both carry state.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from dni import (
    ConditionalSyntheticGradient,
    DirectFeedbackAlignment,
    Every,
    GradientSource,
    LocalLoss,
    Sum,
    SyntheticGradient,
    TrueGradient,
)
from pipeline import Carrying, Config, Data, KeyedBatches, Sgd, StageFailure, prepare, run_simulated, run_threaded
from pipeline.commands.display import plan_tables
from pipeline.errors import ConfigurationError
from pipeline.randomness.keyed import seeded
from pipeline.replay.replay import Replay
from pipeline.virtual_time.analysis import own_seconds
from pipeline.virtual_time.costs import CostModel
from pipeline.virtual_time.equal import equal_stages
from pipeline.virtual_time.rehearsal import rehearse
from tests.executors import EXECUTORS, Case, each_executor
from tests.faults import FailAtUpdate
from tests.reference import CPU, assert_bit_equal
from tests.spawn import Ranks

N, CLASSES, EVERY, STEPS = 4, 3, 3, 20
SOURCES: dict[str, tuple[GradientSource, GradientSource]] = {
    "from above": (TrueGradient(), TrueGradient()),
    "own task": (TrueGradient(), LocalLoss(CLASSES)),
    "both": (TrueGradient(), Sum(LocalLoss(CLASSES), TrueGradient())),
}
"""By what A learns from."""


@dataclass(frozen=True, kw_only=True)
class TwoClocks:
    """A run of A and B, as it can be told to another process."""

    way: str = "both"
    num_stages: int = 3
    steps: int = STEPS

    def model(self) -> list[nn.Module]:
        """A, A and B."""
        return [
            nn.Sequential(nn.Linear(5, 6), nn.Tanh()),
            Carrying(nn.GRUCell(6, 4)),
            nn.Sequential(Carrying(nn.GRUCell(4, 4), period=5), nn.Linear(4, CLASSES)),
        ]

    def batches(self) -> KeyedBatches:
        """Drawn at random."""
        drawn = torch.Generator().manual_seed(0)
        x, target = torch.randn(40, 5, generator=drawn), torch.randint(CLASSES, (40,), generator=drawn)
        return KeyedBatches(x, target, batch_size=N, seed=2)

    def config(self, **settings: object) -> Config:
        """The whole configuration."""
        config = Config(
            model=self.model,
            data=lambda: Data(train=self.batches()),
            loss=nn.CrossEntropyLoss(),
            source=SOURCES[self.way],
            optimizer=Sgd(lr=0.1, momentum=0.9),
            send_every=(1, EVERY),
            steps=self.steps,
            seed=2,
        )
        return replace(config, **settings)  # type: ignore[arg-type]


def move(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad.div_(N)
    optimizer.step()
    optimizer.zero_grad()


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, reduction="sum")


@cache
def twin(way: str) -> dict[str, Tensor]:
    """What two plain loops in one make of it."""
    seeded(2, "model", 0, device=CPU)
    stages = TwoClocks().model()
    first, a, b, readout = stages[0], stages[1].core, stages[2][0].core, stages[2][1]
    optimizers = [torch.optim.SGD(stage.parameters(), lr=0.1, momentum=0.9) for stage in stages]
    head = nn.Linear(4, CLASSES)
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    of_head = torch.optim.Adam(head.parameters(), lr=1e-3)
    a_state = b_state = None
    for step, (x, target) in zip(range(STEPS), TwoClocks().batches().start(0), strict=False):
        h = first(x)
        crossed = h.detach().requires_grad_()
        message = a(crossed, a_state)
        a_state = message.detach()
        gradients = []
        if way != "from above":
            leaf = message.detach().requires_grad_()
            loss_of(head(leaf), target).backward()
            gradients.append(leaf.grad)
            move(of_head)
        if (step + 1) % EVERY == 0:
            leaf = message.detach().requires_grad_()
            b_state = b(leaf, None if step // EVERY % 5 == 0 else b_state)
            loss_of(readout(b_state), target).backward()
            b_state = b_state.detach()
            move(optimizers[2])
            gradients += [] if way == "own task" else [leaf.grad]
        if gradients:
            message.backward(sum(gradients[1:], gradients[0]))
            h.backward(crossed.grad)
            move(optimizers[1])
            move(optimizers[0])
    return {
        f"{i}.{name}": value.detach() for i, stage in enumerate(stages) for name, value in stage.state_dict().items()
    }


@pytest.mark.parametrize("way", SOURCES)
@pytest.mark.parametrize("executor", each_executor("simulate", "threads", "2 ranks"))
def test_two_networks_on_different_clocks_equal_the_twin(executor: str, way: str, ranks: Ranks) -> None:
    case: Any = Case(problem=TwoClocks(way=way), settings={})  # type: ignore[arg-type]
    assert_bit_equal(EXECUTORS[executor].run(case, ranks).weights, twin(way))


@pytest.mark.parametrize(
    "settings",
    [
        {"arrival": "ready", "max_in_flight": (3,)},
        {"source": (SyntheticGradient(), Sum(LocalLoss(CLASSES), SyntheticGradient())), "sync": Every(1)},
        {"stash": "recompute", "delay": (1,)},
        {"stash": "weights", "delay": (1,)},
        {"evaluate_every": 4, "probe_samples": 2},
    ],
    ids=["ready", "at sync steps", "recompute", "weights", "evaluated"],
)
def test_what_should_change_nothing_changes_nothing(settings: dict[str, Any]) -> None:
    problem = TwoClocks()
    test = [batch for batch, _ in zip(problem.batches().start(0), range(7), strict=False)]
    data = lambda: Data(train=problem.batches(), test=test if "evaluate_every" in settings else ())  # noqa: E731
    assert_bit_equal(run_simulated(prepare(problem.config(data=data, **settings))).export(), twin("both"))


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("first", "second"), [("simulate", "threads"), ("threads", "2 ranks"), ("2 ranks", "simulate")]
)
def test_run_that_failed_between_two_steps_of_the_slow_clock_goes_on_exactly(
    ranks: Ranks, tmp_path: Path, first: str, second: str
) -> None:
    plain = Sgd(lr=0.1, momentum=0.9)
    settings: dict[str, Any] = {"checkpoint_every": 4}
    failing = settings | {"optimizer": (plain, FailAtUpdate(plain, 6), plain)}
    with pytest.raises((StageFailure, AssertionError), match="scripted fault"):
        EXECUTORS[first].run(Case(problem=TwoClocks(), settings=failing), ranks, folder=tmp_path)  # type: ignore[arg-type]
    case: Any = Case(problem=TwoClocks(), settings=settings, resume=True)  # type: ignore[arg-type]
    outcome = EXECUTORS[second].run(case, ranks, folder=tmp_path)
    assert (outcome.summary["resumed_at"], outcome.summary["resume_exact"]) == (4, True)
    assert_bit_equal(outcome.weights, twin("both"))


def test_evaluation_has_the_clocks_of_training_and_measures_what_comes_to_the_top() -> None:
    problem = TwoClocks()
    test = [batch for batch, _ in zip(problem.batches().start(0), range(7), strict=False)]
    config = problem.config(
        data=lambda: Data(train=problem.batches(), test=test), optimizer=Sgd(lr=0.0), evaluate_every=9
    )
    seeded(2, "model", 0, device=CPU)
    first, a, (b, readout) = problem.model()  # type: ignore[misc]
    losses = []
    with torch.no_grad():
        for step, (x, target) in enumerate(test):
            message = a(first(x))
            if (step + 1) % EVERY == 0:
                losses.append(loss_of(readout(b(message)), target).item() / N)
    assert run_simulated(prepare(config)).summary["test_loss"] == pytest.approx(sum(losses) / 2, rel=1e-6)


def test_evaluation_that_never_comes_to_the_top_is_warned_of(tmp_path: Path) -> None:
    problem = TwoClocks()
    config = problem.config(data=lambda: Data(train=problem.batches(), test=[problem.batches().peek()] * 2))
    with pytest.warns(UserWarning, match=r"test data hold 2 batch\(es\), and the last stage gets one in 3"):
        assert run_simulated(prepare(config), folder=tmp_path).summary["test_loss"] is None


def operations(source: tuple[GradientSource, ...], **settings: Any) -> list[dict[str, int]]:
    result = run_simulated(prepare(TwoClocks().config(source=source, **settings)))
    return [{"B": stage["backwards"], "U": stage["updates"]} for stage in result.summary["stages"]]


@pytest.mark.parametrize(
    "upper",
    [SyntheticGradient(), ConditionalSyntheticGradient(CLASSES), DirectFeedbackAlignment(CLASSES), TrueGradient()],
    ids=["synthetic", "conditional", "direct feedback", "true"],
)
def test_source_that_asks_something_from_above_says_nothing_at_steps_that_do_not_go_on(upper: GradientSource) -> None:
    done = operations((TrueGradient(), upper))
    assert [each["B"] for each in done] == [STEPS // EVERY] * 3


def test_cadence_counts_the_microbatches_that_a_stage_gets() -> None:
    done = operations((TrueGradient(), LocalLoss(CLASSES)), cadence=(1, 4, 2), delay=(1,))
    assert [each["U"] for each in done] == [20, 5, 3]
    with pytest.raises(ConfigurationError, match="send_every takes 1 value or 2"):
        operations((TrueGradient(), LocalLoss(CLASSES)), send_every=(1, 2, 3))


@pytest.mark.parametrize("way", SOURCES)
def test_played_without_mathematics_it_does_the_same_operations_and_costs_what_is_said(way: str) -> None:
    prepared = prepare(TwoClocks(way=way).config(steps=60, costs=CostModel(message_s=0.0)))
    played, real = (rehearse(prepared, way=each).timing for each in ("stages", "mathematics"))
    assert played.backwards.tolist() == real.backwards.tolist() and played.updates.tolist() == real.updates.tolist()
    assert played.busy_s == pytest.approx(real.busy_s)
    assert played.busy_s == pytest.approx(60 * own_seconds(prepared, prepared.config.costs))
    assert played.forwards.tolist() == [60, 60, 20]


def test_asynchronous_run_on_different_clocks_is_replayed(tmp_path: Path) -> None:
    way = Sum(LocalLoss(CLASSES), SyntheticGradient())
    settings = {"arrival": "ready", "max_in_flight": (3,), "checkpoint_every": 5, "source": (SyntheticGradient(), way)}
    prepared = prepare(TwoClocks().config(**settings))
    run_threaded(prepared, folder=tmp_path)
    replayed = Replay(prepare(TwoClocks().config(**settings)), tmp_path)
    replayed.run()
    assert replayed.ends() == []
    assert replayed.comparison.equal and replayed.comparison.num_tensors, replayed.comparison.lines()


def test_plan_says_which_clocks_there_are() -> None:
    prepared = prepare(TwoClocks().config(send_every=(2, 3)))
    console = Console(file=io.StringIO(), width=120)
    console.print(plan_tables(prepared, (0, 0, 0)))
    assert "of so many steps a stage takes the last: 1, 2, 6" in console.file.getvalue()  # type: ignore[attr-defined]


def test_chain_of_equal_stages_has_one_clock() -> None:
    prepared = prepare(TwoClocks(way="from above").config(send_every=(2,)))
    with pytest.raises(ConfigurationError, match="equal stages has one clock, but send_every is 2"):
        equal_stages(prepared, 9)
