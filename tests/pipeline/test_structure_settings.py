"""Do events go together with what else a run may have: synthetic inputs, participation, blocks, corrections, probes?"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

from dni import (
    At,
    Attach,
    BlockCadence,
    Component,
    ConditionalSyntheticGradient,
    Count,
    Event,
    EverySteps,
    Grow,
    Layer,
    LinearRamp,
    Periodic,
    PruneUnits,
    Quadrants,
    SyntheticInput,
    TopOrAll,
    WeightPrediction,
    Widen,
)
from pipeline import ConfigurationError, Sgd, prepare, run_simulated
from pipeline.clock import WallClock
from pipeline.configuration.run import build_stage
from pipeline.executors.threaded import run_threaded
from pipeline.learners.view import units_of
from pipeline.messages import Activation
from pipeline.randomness import turns
from pipeline.randomness.turns import Turns
from pipeline.stages.stage import Stage
from tests.executors import EXECUTORS, Case, each_executor
from tests.pipeline.test_structure import PRUNED_AT, pruned_by_hand
from tests.reference import Problem, assert_bit_equal
from tests.spawn import Ranks

PRUNE = Event(At(4), PruneUnits(layers=("0.0",), amount=Count(5)))
GROW = Event(At(9), Grow(layers=("1.0",), amount=Count(3), alpha=1.0, ramp=LinearRamp(num_steps=5)))
WIDEN = Event(At(6), Widen(layers=("0.0", "2.0"), amount=Count(2), noise=0.1))
ATTACH = Event(At(7), Attach(edit=Component(layer="1.0", units=3)))
DNI = ConditionalSyntheticGradient(num_classes=10)

WAYS: dict[str, tuple[tuple[Event, ...], dict[str, Any]]] = {
    "synthetic inputs": ((PRUNE, GROW, WIDEN), {"inputs": SyntheticInput(), "source": DNI}),
    "participation": ((PRUNE, GROW), {"participation": TopOrAll(0.5, top="2.0")}),
    "participation, a part attached": ((PRUNE, ATTACH), {"participation": TopOrAll(0.5, top="2.0"), "source": DNI}),
    "blocks by layer": (
        (PRUNE, ATTACH, GROW),
        {"blocks": (BlockCadence(Layer("1.0"), Periodic(3)), BlockCadence(Layer("1.1"), Periodic(2)))},
    ),
    "predicted weights, stashed": (
        (PRUNE, WIDEN),
        {"stash": "weights", "delay": (3,), "correction": WeightPrediction(), "optimizer": Sgd(lr=0.05)},
    ),
    "dropout": ((PRUNE, WIDEN, GROW), {"source": DNI}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("executor", each_executor("threads", "2 ranks"))
def test_every_executor_gives_the_network_that_was_simulated(executor: str, way: str, ranks: Ranks) -> None:
    events, settings = WAYS[way]
    problem = Problem(num_stages=4, optimizer="adam", dropout=0.3 if way == "dropout" else 0.0, steps=16)
    case = Case(problem=problem, settings={**settings, "events": events})
    expected = run_simulated(prepare(case.config()))
    assert expected.export()["0.0.weight"].shape[0] == 24 - 5 + 2 * (WIDEN in events)
    assert all(stage["forwards"] == problem.steps for stage in expected.summary["stages"])
    found = EXECUTORS[executor].run(case, ranks)
    assert_bit_equal(found.weights, expected.export())


@pytest.mark.parametrize("transport", ["shared", "gloo"])
@pytest.mark.distributed
def test_run_over_every_kind_of_edge_equals_a_loop_that_is_pruned_by_hand(transport: str, ranks: Ranks) -> None:
    problem = Problem(num_stages=4, batch_norm=False)
    event = Event(At(PRUNED_AT), PruneUnits(layers=("0.0",), amount=Count(7)))
    found = EXECUTORS["4 ranks"].run(
        Case(problem=problem, settings={"events": (event,), "transport": (transport,)}), ranks
    )
    assert_bit_equal(found.weights, pruned_by_hand(problem, 7))


def test_structure_changes_in_a_turn_of_its_own_because_it_puts_generators_back() -> None:
    """In the first version of issue 6, threads drew the same dropout twice while another stage looked for its units."""
    problem = Problem(num_stages=2)
    event = Event(At(4), PruneUnits(layers=("0.0", "1.0"), amount=Count(3)))
    prepared = prepare(problem.config(events=(event,)))
    stage = build_stage(prepared, 0, clock=WallClock(), turns=Turns())
    free: list[bool] = []

    def looks(*given: Any) -> Any:
        def takes() -> None:
            free.append(turns._LOCK.acquire(blocking=False))

        other = threading.Thread(target=takes)
        other.start()
        other.join()
        return units_of(*given)

    with patch("pipeline.learners.view.units_of", looks):
        _step(stage, problem, 4)
    assert free and not any(free)
    assert turns._LOCK.acquire(blocking=False), "and it is given back"
    turns._LOCK.release()


def _step(stage: Stage, problem: Problem, step: int) -> None:
    learner = stage.learner
    x, target = next(problem.batches().start(0))
    message = Activation(step=step, h=x, target=target)
    entry = learner.forward(message, learns=True, held=True, sync=False, asks=False, wanted=False)
    assert isinstance(entry.h, torch.Tensor)
    entry.gradient = torch.ones_like(entry.h)
    learner.backward_late(entry)
    if learner.due(step):
        learner.update(step)
    learner.change_structure(step)


def test_part_that_is_attached_learns_when_the_block_of_its_layer_does() -> None:
    problem = Problem(num_stages=2, batch_norm=False, steps=9)
    slow = BlockCadence(Layer("1.0"), Periodic(4))
    event = Event(At(2), Attach(edit=Component(layer="1.0", units=3, alpha=1.0)))
    ends = {}
    for steps in (4, 7, 8):
        config = problem.config(events=(event,), blocks=(slow,), steps=steps + 1, delay=(1,))
        prepared = prepare(config)
        stage = build_stage(prepared, 0, clock=WallClock())
        for step in range(steps):
            _step(stage, problem, step)
        ends[steps] = {
            name: value.clone() for name, value in stage.learner.named_tensors().items() if "component" in name
        }
    assert ends[4].keys() == {"1.0.component.0.weight", "1.0.component.0.bias", "1.0.component.2.weight"}
    for name, value in ends[4].items():
        assert torch.equal(ends[7][name], value), "the block is due at steps 3 and 7"
        assert not torch.equal(ends[8][name], value)


def test_units_of_a_weight_that_is_cut_into_blocks_are_refused_before_the_start() -> None:
    blocks = (BlockCadence(Quadrants("0.0.weight"), Periodic(2)),)
    with pytest.raises(ConfigurationError, match=r"at step 4 .* in stage 0: 0\.0\.weight is divided into the blocks"):
        prepare(Problem().config(events=(PRUNE,), blocks=blocks))


def test_evaluations_and_probes_go_on_in_the_middle_of_events(tmp_path: Path) -> None:
    problem = Problem(num_stages=4, optimizer="adam", steps=14)
    events = (PRUNE, WIDEN, Event(EverySteps(3), PruneUnits(layers=("2.0",), amount=Count(1)), name="often"))
    settings = {"events": events, "source": DNI, "evaluate_every": 3, "probe_samples": 16}
    case = Case(problem=problem, settings=settings, evaluates=True)
    plain = Case(problem=problem, settings={**settings, "probe_samples": 0}, evaluates=True)
    expected = run_simulated(prepare(case.config()))
    assert expected.summary["test_loss"] > 0
    assert all(stage["probe"] for stage in expected.summary["stages"][:-1])
    assert_bit_equal(run_threaded(prepare(case.config())).export(), expected.export())
    assert_bit_equal(run_simulated(prepare(plain.config())).export(), expected.export())
    model = nn.Sequential(*(nn.Sequential(stage) for stage in expected.cut.stages)).eval()
    ((x, target), *rest) = prepare(case.config()).test
    losses = [nn.CrossEntropyLoss(reduction="sum")(model(x), target) for x, target in ((x, target), *rest)]
    count = sum(len(target) for _, target in ((x, target), *rest))
    assert sum(loss.item() for loss in losses) / count == pytest.approx(expected.summary["test_loss"], rel=1e-5)
