"""Does every executor do what the others do, for every source, sync, cadence, stash and order?

In fixed order a run is the same everywhere, bit for bit; simulate, which drives everything on one thread, says what is
right. In ready order the order is nobody's, but nothing is lost. To put another executor under the suite, add a row to
`tests/executors.py`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni import (
    MLP,
    Always,
    Bernoulli,
    ConditionalSyntheticGradient,
    DirectFeedbackAlignment,
    Every,
    Kickback,
    LocalLoss,
    MixedGradient,
    Never,
    NoGradient,
    Shadow,
    ShrunkGradient,
    SobolevCritic,
    SyncPolicy,
    SyntheticGradient,
    TrueGradient,
    VirtualGradient,
    WhenWorse,
)
from pipeline import ConfigurationError, prepare, run_simulated, run_threaded, train
from pipeline.executors.training import find_executor
from pipeline.records.checkpoint import latest
from tests.executors import EXECUTORS, Case, Outcome, each_executor
from tests.reference import Problem, assert_bit_equal
from tests.spawn import Ranks

STEPS = 14
PROBLEM = Problem(num_stages=4, optimizer="adam", steps=STEPS)
WITH_DROPOUT = Problem(num_stages=4, optimizer="adam", dropout=0.2, steps=STEPS)

SOURCES = {
    "true": TrueGradient(),
    "synthetic": SyntheticGradient(MLP(hidden=(32,))),
    "conditional": ConditionalSyntheticGradient(num_classes=10),
    "none": NoGradient(),
    "shrunk": ShrunkGradient(0.3),
    "shadow": Shadow(ConditionalSyntheticGradient(num_classes=10)),
    "local": (LocalLoss(similarity_weight=0.5), MixedGradient(SyntheticGradient(), 0.4), VirtualGradient()),
    "asking": (DirectFeedbackAlignment(), SobolevCritic(num_classes=10), MixedGradient(Kickback())),
    "mixed": (ConditionalSyntheticGradient(num_classes=10), TrueGradient(), NoGradient()),
}
WAYS: dict[str, dict[str, Any]] = {
    "no sync": {"sync": Never()},
    "syncs, each stage at its own cadence": {"sync": Bernoulli(0.3), "cadence": (1, 2, 1, 3), "delay": (3,)},
    "syncs, sparse updates, evaluations, checkpoints": {
        "sync": Every(4),
        "update_probability": (0.7,),
        "evaluate_every": 5,
        "checkpoint_every": 4,
    },
    "syncs where reports are bad": {"sync": WhenWorse(0.2, probe_every=5), "delay": (3,), "checkpoint_every": 6},
    "windows, forward first": {"cadence": (4,), "delay": (4,), "prefer": "activations"},
}
REPORTED = Problem(num_stages=4, optimizer="adam", steps=40)
LATE: dict[str, dict[str, Any]] = {
    "with the weights of the forward": {"stash": "weights", "delay": (4,), "sync": Bernoulli(0.3)},
    "recomputed": {"stash": "recompute", "delay": (4,), "sync": Bernoulli(0.3)},
    "with today's weights": {"stash": "graph", "delay": (4,), "sync": Bernoulli(0.3)},
    "dropped when too late": {"stash": "weights", "delay": (4,), "max_staleness": 1, "at_max_staleness": "drop"},
}


def assert_same_run(found: Outcome, expected: Outcome) -> None:
    """The same weights, results and counts; only times and the executor's name may differ."""
    assert_bit_equal(found.weights, expected.weights)
    for name in ("status", "steps", "samples", "train_loss", "test_loss", "test_accuracy"):
        assert found.summary[name] == expected.summary[name], name
    for own, other in zip(found.summary["stages"], expected.summary["stages"], strict=True):
        for name in ("updates", "forwards", "backwards", "staleness_mean", "source_loss", "gradient_cosine"):
            assert own[name] == other[name], (own["index"], name)


def assert_does_what_simulate_does(executor: str, case: Case, ranks: Ranks) -> None:
    assert_same_run(EXECUTORS[executor].run(case, ranks), EXECUTORS["simulate"].run(case, ranks))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("executor", each_executor("threads"))
def test_run_in_fixed_order_is_the_same_as_simulated(executor: str, source: str, way: str, ranks: Ranks) -> None:
    case = Case(problem=PROBLEM, settings={"source": SOURCES[source], **WAYS[way]}, evaluates=True)
    assert_does_what_simulate_does(executor, case, ranks)


@pytest.mark.parametrize("way", LATE)
@pytest.mark.parametrize("source", ["true", "shrunk", "mixed", "asking"])
@pytest.mark.parametrize("executor", each_executor("threads"))
def test_run_with_late_gradients_is_the_same_as_simulated(executor: str, source: str, way: str, ranks: Ranks) -> None:
    case = Case(problem=WITH_DROPOUT, settings={"source": SOURCES[source], **LATE[way]}, evaluates=True)
    assert_does_what_simulate_does(executor, case, ranks)


@pytest.mark.parametrize("source", ["conditional", "mixed", "asking"])
@pytest.mark.parametrize("executor", each_executor("threads", "2 ranks"))
def test_run_with_dropout_and_everything_else_is_the_same_as_simulated(
    executor: str, source: str, ranks: Ranks
) -> None:
    settings = {"source": SOURCES[source], "sync": Bernoulli(0.3), "cadence": (1, 2, 1, 3), "evaluate_every": 5}
    assert_does_what_simulate_does(executor, Case(problem=WITH_DROPOUT, settings=settings, evaluates=True), ranks)


def _reported(sync: SyncPolicy) -> Case:
    return Case(problem=REPORTED, settings={"source": SOURCES["conditional"], "sync": sync, "delay": (3,)})


@cache
def _simulated(sync: SyncPolicy) -> Outcome:
    result = run_simulated(prepare(_reported(sync).config()))
    return Outcome(result.export(), result.summary)


@pytest.mark.parametrize("executor", each_executor("threads", "2 ranks"))
def test_syncs_that_follow_from_reports_are_the_same_as_simulated(executor: str, ranks: Ranks) -> None:
    found = EXECUTORS[executor].run(_reported(WhenWorse(0.2, probe_every=5)), ranks)
    assert_same_run(found, _simulated(WhenWorse(0.2, probe_every=5)))
    for sync in (Always(), Every(5)):  # some steps were syncs because of a report, some were not
        assert not torch.equal(found.weights["0.0.weight"], _simulated(sync).weights["0.0.weight"])


READY: dict[str, dict[str, Any]] = {
    "true gradients": {"source": TrueGradient(), "max_in_flight": (3,)},
    "synthetic gradients and syncs": {"source": SOURCES["conditional"], "sync": Bernoulli(0.3)},
    "forward first": {"source": TrueGradient(), "cadence": (3,), "max_in_flight": (3,), "prefer": "activations"},
    "late gradients": {"source": TrueGradient(), "stash": "weights", "max_in_flight": (4,)},
}
LONGER = Problem(num_stages=4, optimizer="adam", dropout=0.1, steps=60)
DROPPING = replace(LONGER, steps=30)


@pytest.mark.parametrize("way", READY)
@pytest.mark.parametrize("executor", each_executor("simulate", "threads", "2 ranks"))
def test_run_in_ready_order_loses_nothing_and_learns(executor: str, way: str, ranks: Ranks, tmp_path: Path) -> None:
    settings = {"arrival": "ready", "evaluate_every": 30, "checkpoint_every": 20, "log_every": 5, **READY[way]}
    case = Case(problem=LONGER, settings=settings, evaluates=True)
    summary = EXECUTORS[executor].run(case, ranks, folder=tmp_path).summary
    assert (summary["status"], summary["steps"]) == ("finished", LONGER.steps)
    assert [stage["forwards"] for stage in summary["stages"]] == [LONGER.steps] * 4
    assert [stage["backwards"] for stage in summary["stages"]] == [LONGER.steps] * 4
    lines = [json.loads(line) for line in (tmp_path / "metrics" / "stage-3.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    assert [line["step"] for line in lines if "test_loss" in line] == [30, 60]
    steps = sorted(path.parent.name for path in (tmp_path / "checkpoints").glob("*/manifest.json"))
    assert steps == ["step-000000020", "step-000000040", "step-000000060"]
    assert latest(tmp_path / "checkpoints")[1].finished


@pytest.mark.parametrize("source", ["conditional", "asking"])
@pytest.mark.parametrize("policy", [{"queue": ("latest",)}, {"queue": ("drop_oldest",), "queue_size": (2,)}])
@pytest.mark.parametrize("executor", each_executor("simulate", "threads", "2 ranks"))
def test_run_that_may_drop_answers_every_message(
    executor: str, policy: dict[str, Any], source: str, ranks: Ranks
) -> None:
    settings = {"source": SOURCES[source], "arrival": "ready", "max_in_flight": (6,), "sync": Every(10)}
    case = Case(problem=DROPPING, settings=settings | policy, evaluates=True)
    summary = EXECUTORS[executor].run(case, ranks).summary
    assert (summary["status"], summary["steps"]) == ("finished", DROPPING.steps)
    forwards = [stage["forwards"] for stage in summary["stages"]]
    assert forwards[0] == DROPPING.steps and forwards == sorted(forwards, reverse=True)
    assert forwards[3] >= DROPPING.steps // 10, "a sync step is never dropped"
    assert summary["test_loss"] is not None


def test_executor_is_chosen_by_its_name() -> None:
    assert find_executor("simulate") is run_simulated
    assert find_executor("threads") is run_threaded
    with pytest.raises(ConfigurationError, match=r"executor distributed runs in several processes.*simulate, threads"):
        find_executor("distributed")


def test_train_runs_on_the_executor_it_is_given() -> None:
    stages = [nn.Linear(64, 8), nn.Linear(8, 10)]
    batches = PROBLEM.batches()
    result = train(stages, batches, loss=nn.CrossEntropyLoss(), steps=4, executor="threads")
    assert result.summary["executor"] == "threads" and result.summary["steps"] == 4
    with pytest.raises(ConfigurationError, match="which `dni train` or torchrun starts"):
        train(stages, batches, loss=nn.CrossEntropyLoss(), steps=4, executor="distributed")
