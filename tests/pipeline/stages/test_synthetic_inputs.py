"""Does a stage with synthetic inputs run without the one below it, and learn what it should, in every executor?"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import (
    Always,
    Bernoulli,
    Every,
    InputMLP,
    InputSource,
    ReceivedInput,
    SyntheticGradient,
    SyntheticInput,
    TrueGradient,
)
from pipeline import Config, ConfigurationError, CostModel, Data, KeyedBatches, Sgd, prepare, run_simulated
from pipeline.commands.display import plan_tables
from pipeline.configuration.run import build_stage, make_feed, make_inbox
from pipeline.executors.executor import Execute
from pipeline.executors.threaded import run_threaded
from pipeline.randomness.keyed import generator
from pipeline.stages.trace import Event
from pipeline.virtual_time.costs import virtual_clock
from pipeline.virtual_time.simulator import simulate
from pipeline.virtual_time.timed import build_timed_stage
from tests.executors import EXECUTORS, Case, each_executor
from tests.pipeline.chain import WIDTH, features, labels, linear
from tests.pipeline.commands.test_display import _printed
from tests.reference import Problem, assert_bit_equal
from tests.spawn import Ranks

PROBLEM = Problem(num_stages=4, dropout=0.1, optimizer="adam", steps=18)
DECOUPLED: dict[str, Any] = {"source": SyntheticGradient(), "inputs": SyntheticInput(update_probability=0.7)}
SETTINGS: dict[str, dict[str, Any]] = {
    "everywhere": DECOUPLED,
    "with syncs and held steps": {
        "source": (SyntheticGradient(), TrueGradient(), SyntheticGradient()),
        "inputs": (SyntheticInput(), ReceivedInput(), SyntheticInput()),
        "sync": Bernoulli(0.3, top=3),
        "cadence": (1, 2, 1, 3),
        "update_probability": (1.0, 0.6, 1.0, 1.0),
        "delay": (3, 2, 2),
    },
}
LR = 0.1


def prepared(**settings: Any) -> Any:
    """A square layer per stage, four of them."""
    x, target = features(0, num_samples=12), labels(0, num_samples=12)
    own: dict[str, Any] = {"source": SyntheticGradient(), "inputs": SyntheticInput(), "steps": 8, "delay": (4,)}
    return prepare(
        Config(
            model=lambda: [linear(index) for index in range(4)],
            data=lambda: Data(train=KeyedBatches(x, target, batch_size=4), test=[(x[:2], target[:2])]),
            loss=nn.CrossEntropyLoss(),
            optimizer=Sgd(lr=0.01),
            **(own | settings),
        )
    )


def played(*, timed: bool = False, **settings: Any) -> list[list[Event]]:
    """What each stage did, in virtual time."""
    run = prepared(**settings)
    clock = virtual_clock(run.config.costs, num_stages=4)
    build = build_timed_stage if timed else build_stage
    stages = [build(run, index, clock=clock) for index in range(4)]
    simulate(
        stages,
        make_feed(run).messages(),
        inboxes=[make_inbox(run, index) for index in range(4)],
        clock=clock,
        costs=run.config.costs,
        on_drained=lambda stage, drain: None,
    )
    return [stage.recorder.take_events() for stage in stages]


COSTS = CostModel(forward_s=1.0, backward_s=0.5, learn_s=0.1, update_s=0.0, input_s=0.0, message_s=0.01)


@pytest.mark.parametrize(("arrival", "fewest"), [("ready", 3), ("fixed", 1)])
def test_stage_goes_on_while_the_one_below_it_stands_still(arrival: str, fewest: int) -> None:
    """Stage 1 pauses for six seconds; in fixed order the next activation is waited for before the next step but one."""
    paused = replace(COSTS, pauses=((1, 5.1, 6.0),))
    for inputs, least, most in ((ReceivedInput(), 0, 0), (SyntheticInput(), fewest, 4)):
        events = played(inputs=inputs, arrival=arrival, costs=paused)
        meanwhile = [e for e in events[2] if e.operation == "F" and 6.2 < e.start_s < 11.0]
        assert least <= len(meanwhile) <= most


def test_stages_above_the_first_begin_at_once_after_an_evaluation() -> None:
    locked, unlocked = (
        [next(e.start_s for e in own if (e.operation, e.step) == ("F", 4)) for own in events]
        for events in (
            played(inputs=inputs, costs=COSTS, evaluate_every=4) for inputs in (ReceivedInput(), SyntheticInput())
        )
    )
    assert all(upper - lower > 1.0 for lower, upper in pairwise(locked)), "a forward later than the stage below"
    assert max(unlocked[1:]) - min(unlocked[1:]) < 0.1


def test_time_without_mathematics_is_that_of_the_stages_but_for_the_first_step() -> None:
    """A stage has to wait for its first activation, of which the timed one knows nothing."""
    events, timed = played(arrival="fixed", costs=COSTS), played(arrival="fixed", costs=COSTS, timed=True)
    for own, other in zip(events[1:], timed[1:], strict=True):
        assert [e[:2] for e in own if e.step > 1] == [e[:2] for e in other if e.step > 1]
        assert {"I", "N"} < {e.operation for e in own}


@pytest.mark.parametrize("execute", [run_simulated, run_threaded])
def test_run_equals_networks_written_out_by_hand(execute: Execute) -> None:
    """Three layers of tanh and a linear one, with a linear synthesizer and a linear input at each boundary."""
    x, target = features(0, num_samples=18, width=5).double(), labels(0, num_samples=18)
    widths, steps = (5, 7, 4, 6, WIDTH), 9

    def model() -> list[nn.Module]:
        layers = [nn.Linear(a, b).double() for a, b in pairwise(widths)]
        return [*(nn.Sequential(layer, nn.Tanh()) for layer in layers[:-1]), nn.Sequential(layers[-1])]

    sgd = partial(torch.optim.SGD, lr=LR)
    config = Config(
        model=model,
        data=lambda: Data(train=KeyedBatches(x, target, batch_size=4)),
        loss=nn.CrossEntropyLoss(),
        source=SyntheticGradient(optimizer=sgd),
        inputs=SyntheticInput(InputMLP(hidden=()), optimizer=sgd),
        optimizer=sgd,
        steps=steps,
        delay=(1,),
    )
    run = prepare(config)
    assert run.train is not None
    stages = copy.deepcopy(run.cut.stages)
    batches = [batch for _, batch in zip(range(steps), run.train.start(0), strict=False)]
    execute(run)
    synthesizers: list[nn.Linear] = []
    inputs = [nn.Linear(5, width).double() for width in widths[1:-1]]
    for step, (first, label) in enumerate(batches):
        received, sent = first, []
        for index, stage in enumerate(stages):
            given = received if index == 0 or step == 0 else inputs[index - 1](first)
            given = given.detach().requires_grad_()
            h = stage(given)
            if index == len(stages) - 1:
                nn.functional.cross_entropy(h, label, reduction="sum").backward()
            else:
                if step == 0:
                    synthesizers.append(nn.Linear(h.shape[1], h.shape[1]).double())
                    nn.init.zeros_(synthesizers[index].weight)
                    nn.init.zeros_(synthesizers[index].bias)
                h.backward(synthesizers[index](h.detach()).detach())
            received = h.detach()
            sent.append((received, given.grad))
        for index, stage in enumerate(stages):
            descend(stage, num_samples=len(first))
            if index:
                h, pulled = sent[index - 1][0], sent[index][1]
                assert pulled is not None
                fit(synthesizers[index - 1], h, pulled)
                if step == 0:  # what it begins with is drawn when it is built
                    copy_input(inputs[index - 1], run.inputs[index - 1], first, h, index)
                fit(inputs[index - 1], first, h)
    for stage, own in zip(stages, run.cut.stages, strict=True):
        for found, by_hand in zip(own.parameters(), stage.parameters(), strict=True):
            torch.testing.assert_close(found, by_hand, rtol=0, atol=1e-12)


def descend(stage: nn.Module, *, num_samples: int) -> None:
    with torch.no_grad():
        for parameter in stage.parameters():
            assert parameter.grad is not None
            parameter -= LR * parameter.grad / num_samples
            parameter.grad = None


def fit(network: nn.Linear, x: Tensor, target: Tensor) -> None:
    with torch.no_grad():
        slope = 2 * (network(x) - target) / len(x)
        network.weight -= LR * slope.T @ x
        network.bias -= LR * slope.sum(0)


def copy_input(network: nn.Linear, source: InputSource, x: Tensor, h: Tensor, index: int) -> None:
    fresh = SyntheticInput(InputMLP(hidden=()))
    fresh.build(x, h, generator=generator(0, f"input/{index}", 0))
    with torch.no_grad():
        for own, drawn in zip(network.parameters(), fresh.parameters(), strict=True):
            own.copy_(drawn)


@cache
def simulated(name: str) -> dict[str, Tensor]:
    settings = SETTINGS[name] | {"evaluate_every": 7}
    return run_simulated(prepare(Case(problem=PROBLEM, settings=settings, evaluates=True).config())).export()


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("executor", each_executor("threads", "1 rank", "2 ranks", "4 ranks"))
def test_fixed_order_gives_the_same_bits_in_every_executor(executor: str, name: str, ranks: Ranks) -> None:
    settings = SETTINGS[name] | {"evaluate_every": 7}
    found = EXECUTORS[executor].run(Case(problem=PROBLEM, settings=settings, evaluates=True), ranks)
    assert_bit_equal(found.weights, simulated(name))


@pytest.mark.parametrize("executor", each_executor("simulate", "threads", "2 ranks"))
def test_ready_order_learns_from_every_step(executor: str, ranks: Ranks) -> None:
    case = Case(problem=PROBLEM, settings=DECOUPLED | {"arrival": "ready", "evaluate_every": 7}, evaluates=True)
    found = EXECUTORS[executor].run(case, ranks)
    assert [stage["backwards"] for stage in found.summary["stages"]] == [PROBLEM.steps] * 4


@pytest.mark.parametrize("name", SETTINGS)
def test_resumed_run_has_the_same_bits(name: str, tmp_path: Path, ranks: Ranks) -> None:
    settings = SETTINGS[name] | {"evaluate_every": 7, "checkpoint_every": 7}
    half = Case(problem=Problem(**(vars(PROBLEM) | {"steps": 7})), settings=settings, evaluates=True)
    whole = Case(problem=PROBLEM, settings=settings, evaluates=True, resume=True)
    EXECUTORS["simulate"].run(half, ranks, folder=tmp_path)
    assert_bit_equal(EXECUTORS["threads"].run(whole, ranks, folder=tmp_path).weights, simulated(name))


def test_sync_at_every_step_is_backpropagation_through_what_is_received() -> None:
    exact = run_simulated(prepare(PROBLEM.config(sync=Always(), **DECOUPLED))).export()
    assert_bit_equal(exact, run_simulated(prepare(PROBLEM.config())).export())


def test_stage_takes_what_it_receives_where_a_sync_reaches_below_it() -> None:
    events = played(sync=Every(4, top=2))
    imagined = [{e.step for e in own if e.operation == "I"} for own in events]
    assert imagined[1] == imagined[2] == {1, 2, 3, 4, 5, 6, 7}
    assert {e.step for e in events[2] if e.operation == "S"} == {3, 7}
    assert imagined[3] == {1, 2, 4, 5, 6}, "the sync reaches the stage below the last one"
    assert {e.step for e in events[3] if e.operation == "N"} == imagined[3] | {0}


def test_inputs_draw_the_steps_they_learn_from_by_themselves() -> None:
    events = played(inputs=SyntheticInput(update_probability=0.5), steps=60)
    learned = [{e.step for e in own if e.operation == "N"} for own in events]
    assert not learned[0] and learned[1] != learned[2]
    assert all(15 < len(own) < 45 for own in learned[1:])
    assert all(len([e for e in own if e.operation == "B"]) == 60 for own in events)


def test_what_cannot_work_is_refused_naming_boundary_and_remedy() -> None:
    with pytest.raises(ConfigurationError, match=r"boundary 0-1: queue is latest, but stage 3 .* Use queue block"):
        prepared(arrival="ready", queue=("latest",))
    with pytest.raises(ConfigurationError, match=r"boundary 1-2: SyntheticInput, the input of stage 2, cannot make"):
        prepared(inputs=(ReceivedInput(), SyntheticInput(nn.Linear(WIDTH, 2)), ReceivedInput()))
    with pytest.raises(ConfigurationError, match=r"must be an InputSource .* got Linear. Use SyntheticInput"):
        prepared(inputs=nn.Linear(2, 2))
    with pytest.raises(ConfigurationError, match="inputs takes 1 value or 3"):
        prepared(inputs=(SyntheticInput(), SyntheticInput()))


def test_plan_says_who_is_sent_the_input_and_what_that_adds() -> None:
    text = _printed(plan_tables(prepared(inputs=(ReceivedInput(), SyntheticInput(), ReceivedInput())), [0, 0, 0, 1]))
    assert "0-2: the network's input" in text and "SyntheticInput, " in text and "0-1: the" not in text
