"""Does looking at the curvature that stages see leave a run alone, and do rates that act survive what runs survive?"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import (
    At,
    Attach,
    Bernoulli,
    BlockCadence,
    Component,
    ConditionalSyntheticGradient,
    Count,
    CurvatureSettings,
    Event,
    FreezeOut,
    Layer,
    LocalLoss,
    LossGradient,
    Never,
    ParameterPartition,
    Periodic,
    PruneUnits,
    Signal,
    StageBatch,
    StageCurvature,
    Summary,
    TrueGradient,
    WeightPrediction,
    summarise_chain,
    summarise_stage,
)
from pipeline import Sgd, StageFailure, prepare, run_simulated
from pipeline.replay.replay import Replay
from tests.executors import EXECUTORS, Case, each_executor
from tests.faults import FailAtUpdate
from tests.reference import Problem, assert_bit_equal
from tests.spawn import Ranks

PROBLEM = Problem(num_stages=3, batch_norm=False, steps=9, batch_size=24)
DNI: dict[str, Any] = {"source": ConditionalSyntheticGradient(10), "sync": Bernoulli(0.4)}
REPORTS = StageCurvature(by="layer", settings=CurvatureSettings(period=3))
BOUNDED = CurvatureSettings(period=3, ceiling=2.0)
ACTS = replace(REPORTS, settings=BOUNDED, acts=True, microbatches=2)
WAYS: dict[str, dict[str, Any]] = {
    "hold": {"cadence": (1, 2, 3)},
    "recompute": {"stash": "recompute", "delay": (3,)},
    "weights": {"stash": "weights", "delay": (3,)},
    "graph, predicted, some stages": {
        "stash": "graph",
        "delay": (3,),
        "correction": WeightPrediction(),
        "optimizer": Sgd(lr=0.05),
        "source": (TrueGradient(), ConditionalSyntheticGradient(10)),
        "curvature": (None, REPORTS, REPORTS),
    },
    "blocks": {"blocks": (BlockCadence(Layer("1.0"), Periodic(2)),)},
    "participation": {"participation": FreezeOut(steps=20), "source": LocalLoss(10), "sync": Bernoulli(0.0)},
    "local": {"source": LocalLoss(10)},
}


def make_case(way: str = "hold", curvature: StageCurvature | None = REPORTS, **more: Any) -> Case:
    chosen = {} if curvature is REPORTS else {"curvature": curvature}
    return Case(problem=PROBLEM, settings={**DNI, "curvature": REPORTS, **WAYS[way], **chosen, **more})


@cache
def plain(way: str) -> dict[str, Tensor]:
    """The weights of the run that nobody looks at."""
    return run_simulated(prepare(make_case(way, None).config())).export()


@pytest.mark.parametrize("way", WAYS)
def test_run_has_the_same_bits_with_and_without_a_report(way: str) -> None:
    assert_bit_equal(run_simulated(prepare(make_case(way).config())).export(), plain(way))


@pytest.mark.parametrize("executor", each_executor("threads", "2 ranks"))
def test_report_leaves_the_bits_alone_in_every_executor_and_its_time_has_a_name_of_its_own(
    executor: str, ranks: Ranks
) -> None:
    outcome = EXECUTORS[executor].run(make_case(), ranks)
    assert_bit_equal(outcome.weights, plain("hold"))
    assert all(stage["curvature_s"] > 0 for stage in outcome.summary["stages"])
    assert all(stage["operation_s"].keys() <= set("FBLU") for stage in outcome.summary["stages"])


@pytest.mark.parametrize("executor", each_executor("threads", "2 ranks"))
def test_rates_that_act_are_the_same_in_every_executor(executor: str, ranks: Ranks) -> None:
    expected = run_simulated(prepare(make_case(curvature=ACTS).config())).export()
    assert any(not torch.equal(expected[name], value) for name, value in plain("hold").items())
    assert_bit_equal(EXECUTORS[executor].run(make_case(curvature=ACTS), ranks).weights, expected)


def test_first_summary_waits_until_the_source_says_something(tmp_path: Path) -> None:
    """A synthesizer begins at zero, where no rate could be found, and the weights decay meanwhile."""
    config = make_case(curvature=replace(ACTS, by="stage"), sync=Never(), cadence=(1,), log_every=1).config()
    run_simulated(prepare(config), folder=tmp_path)
    low, top = [[line for line in _metrics(tmp_path, stage) if "curvature/unsolved" in line] for stage in (0, 2)]
    assert low[0]["step"] > 0 and top[0]["step"] == 0
    assert low[0]["curvature/gradient/all"] != 0


def _ones(summary: Summary) -> Tensor:
    return torch.ones_like(summary.gradient)


def test_rates_of_one_leave_the_optimisers_steps_to_the_bit_and_rates_of_zero_let_nothing_move() -> None:
    ones = replace(ACTS, settings=CurvatureSettings(rule=_ones, factor=1.0))
    assert_bit_equal(run_simulated(prepare(make_case(curvature=ones).config())).export(), plain("hold"))
    nothing = replace(ACTS, settings=CurvatureSettings(rule=_ones, ceiling=0.0))
    local = replace(make_case("local", nothing).config(), optimizer=Sgd(lr=0.1))  # a loss that is nowhere flat at first
    still = run_simulated(prepare(local)).export()
    begun = prepare(local).cut
    for index, stage in enumerate(begun.stages[1:], 1):
        for name, full in begun.names(index).items():
            assert torch.equal(still[full], stage.state_dict()[name])


@pytest.mark.parametrize("step", [4, 5])
def test_run_resumed_in_the_middle_of_a_window_and_a_period_equals_one_never_stopped(step: int, tmp_path: Path) -> None:
    config = replace(make_case(curvature=ACTS).config(), checkpoint_every=step)
    whole = run_simulated(prepare(config), folder=tmp_path / "whole").export()
    fails = FailAtUpdate(PROBLEM.make_optimizer, step + 3)
    with pytest.raises(StageFailure):
        run_simulated(prepare(replace(config, optimizer=fails)), folder=tmp_path / "cut")
    resumed = run_simulated(prepare(config), folder=tmp_path / "cut", resume=True)
    assert resumed.summary["resumed_at"] == step
    assert_bit_equal(resumed.export(), whole)


@pytest.mark.parametrize("start", [0, 4])
def test_run_with_rates_that_act_is_lived_through_again(start: int, tmp_path: Path) -> None:
    config = replace(make_case(curvature=ACTS).config(), checkpoint_every=4)
    run_simulated(prepare(config), folder=tmp_path)
    replayed = Replay(prepare(config), tmp_path, start=start)
    replayed.run()
    assert replayed.comparison.equal, replayed.comparison.lines()


EVENTS = (
    Event(At(2), PruneUnits(layers=("0.0",), amount=Count(5))),
    Event(At(4), Attach(edit=Component(layer="1.0", units=3))),
)


@pytest.mark.parametrize("by", ["tensor", "stage"])
def test_rates_follow_the_structure_by_the_names_of_subsets(by: Any, tmp_path: Path, ranks: Ranks) -> None:
    curvature = StageCurvature(by=by, settings=replace(BOUNDED, period=4), acts=True, microbatches=2)
    case = make_case("local", curvature, events=EVENTS, log_every=1)
    result = run_simulated(prepare(case.config()), folder=tmp_path)
    assert result.export()["0.0.weight"].shape[0] == 24 - 5
    steps = {line["step"]: line for line in _metrics(tmp_path, 1) if "curvature/decrease" in line}
    # At the first update of each structure; then every fourth. (Its input is narrower at 2, when stage 0 was pruned.)
    assert len(steps) == 3
    _, pruned, joined = steps.values()
    attached = [name for name in joined if name.startswith("curvature/used_rate/") and name not in pruned]
    assert len(attached) == {"tensor": 3, "stage": 0}[by]
    assert_bit_equal(EXECUTORS["threads"].run(case, ranks).weights, result.export())


def _metrics(folder: Path, stage: int) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics" / f"stage-{stage}.jsonl").read_text().splitlines()]


def test_curvature_across_the_stages_of_a_run_is_that_of_the_network_under_the_true_loss(tmp_path: Path) -> None:
    """What each stage sees by itself, and how stages interact; the last one sees the true loss."""
    result = run_simulated(prepare(make_case("local").config()), folder=tmp_path)
    stages, loss = result.cut.stages, nn.CrossEntropyLoss()
    x, target = next(iter(PROBLEM.batches().start(0)))
    network = nn.Sequential(*stages)
    own = dict(network.named_parameters())
    (*gradients,) = torch.autograd.grad(loss(network(x), target), list(own.values()))
    u = dict(zip(own, gradients, strict=True))
    shapes = {name: tuple(p.shape) for name, p in own.items()}
    partition = ParameterPartition.by_name(shapes, {f"stage {index}": [str(index)] for index in range(3)})
    whole = summarise_chain(network, loss, x, target, u, partition)
    assert whole.hessian.shape == (3, 3) and bool((whole.hessian != 0).all())
    last = {name.removeprefix("2."): each for name, each in u.items() if name.startswith("2.")}
    top = ParameterPartition.as_one({name: tuple(each.shape) for name, each in last.items()})
    h = network[:2](x).detach()
    source = LossGradient(loss)
    source.estimate(network(x).detach(), Signal(step=0, target=target))
    seen = summarise_stage(stages[2], source, [StageBatch(x=h, signal=Signal(step=0, target=target))], last, top)
    torch.testing.assert_close(seen.hessian[0, 0], whole.hessian[2, 2], rtol=1e-4, atol=0)
    torch.testing.assert_close(seen.gradient[0], whole.gradient[2], rtol=1e-4, atol=0)
