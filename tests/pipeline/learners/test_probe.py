"""Does a probe say how good the sources are, and does nothing else change?"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from dni import (
    MLP,
    Bernoulli,
    ConditionalSyntheticGradient,
    DormantUnits,
    NoGradient,
    Shadow,
    Signal,
    SyntheticGradient,
    TrueGradient,
    grade,
)
from dni import Ranks as RanksOfOutputs
from pipeline import ConfigurationError, Data, KeyedBatches, Replay, prepare, run_simulated, train
from pipeline.learners.probe import measure_output
from pipeline.records.checkpoint import latest
from tests.executors import EXECUTORS, Case, each_executor
from tests.reference import Problem, assert_bit_equal
from tests.spawn import Ranks

STEPS = 14
PROBLEM = Problem(num_stages=4, optimizer="adam", dropout=0.2, steps=STEPS)
SETTINGS: dict[str, Any] = {
    "source": (ConditionalSyntheticGradient(10, MLP(hidden=(16,))), SyntheticGradient(), TrueGradient()),
    "delay": (1, 3, 2),
    "cadence": (2,),
    "sync": Bernoulli(0.3),
    "evaluate_every": 5,
    "checkpoint_every": 7,
}


def _saved(folder: Path) -> list[Any]:
    """Everything in the last checkpoint, optimisers and accumulators included."""
    path, _ = latest(folder / "checkpoints")
    return [torch.load(file, weights_only=True) for file in sorted(path.glob("*.pt"))]


def _leaves(state: Any) -> list[Any]:
    if isinstance(state, dict):
        return [leaf for key, value in state.items() for leaf in [key, *_leaves(value)]]
    if isinstance(state, list | tuple):
        return [leaf for value in state for leaf in _leaves(value)]
    return [state]


@pytest.mark.parametrize("name", each_executor("simulate", "threads", "2 ranks"))
def test_a_probe_changes_no_weight_statistic_or_optimiser_and_no_result(
    name: str, ranks: Ranks, tmp_path: Path
) -> None:
    case = Case(problem=PROBLEM, settings=SETTINGS, evaluates=True)
    probing = replace(case, settings=SETTINGS | {"probe_samples": 40})
    before = torch.get_rng_state()
    without = EXECUTORS[name].run(case, ranks, folder=tmp_path / "without")
    with_it = EXECUTORS[name].run(probing, ranks, folder=tmp_path / "with")
    assert_bit_equal(with_it.weights, without.weights)
    assert torch.equal(torch.get_rng_state(), before)
    saved = [_leaves(_saved(tmp_path / folder)) for folder in ("without", "with")]
    assert len(saved[0]) > 100
    for a, b in zip(*saved, strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b
    assert with_it.summary["test_loss"] == without.summary["test_loss"]
    assert [stage["source_loss"] for stage in with_it.summary["stages"]] == [
        stage["source_loss"] for stage in without.summary["stages"]
    ]
    assert ["cosine" in stage["probe"] for stage in with_it.summary["stages"]] == [True, True, True, False]
    assert all({"effective_rank", "dormant"} <= stage["probe"].keys() for stage in with_it.summary["stages"])
    assert not any(stage["probe"] for stage in without.summary["stages"])


@pytest.mark.parametrize("name", each_executor("threads", "2 ranks"))
def test_a_probe_says_the_same_in_every_executor(name: str, ranks: Ranks) -> None:
    case = Case(problem=PROBLEM, settings=SETTINGS | {"probe_samples": 40}, evaluates=True)
    found, expected = (EXECUTORS[way].run(case, ranks).summary["stages"] for way in (name, "simulate"))
    assert [stage["probe"] for stage in found] == [stage["probe"] for stage in expected]


# The numbers, against a chain that is written out


def _chain() -> list[nn.Module]:
    torch.manual_seed(4)
    return [
        nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh()).double(),
        nn.Sequential(nn.Linear(8, 7), nn.Tanh()).double(),
        nn.Sequential(nn.Linear(7, 5), nn.Tanh()).double(),
        nn.Linear(5, 3).double(),
    ]


def _batches(count: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(count, 6, dtype=torch.float64, generator=generator)
    return x, (x[:, 0] + x[:, 1] > 0).long() + (x[:, 2] > 0).long()


def _by_hand(stages: Sequence[nn.Module], sources: Sequence[Any], x: Tensor, target: Tensor) -> list[dict[str, float]]:
    """The grades of every boundary, each gradient by an autograd of its own."""
    stages = [copy.deepcopy(stage).train() for stage in stages]
    leaves, outputs = [x], []
    for stage in stages:
        outputs.append(stage(leaves[-1]))
        leaves.append(outputs[-1].detach().requires_grad_())
    loss = F.cross_entropy(outputs[-1], target, reduction="sum")
    (used,) = torch.autograd.grad(loss, outputs[-1], retain_graph=True)
    trues = []
    for index in range(len(stages) - 1):
        h = leaves[index + 1]
        y = h
        for stage in stages[index + 1 :]:
            y = stage(y)
        trues.append(torch.autograd.grad(F.cross_entropy(y, target, reduction="sum"), h)[0])
    grades: list[dict[str, float]] = []
    for index in reversed(range(len(stages) - 1)):
        (shown,) = torch.autograd.grad(outputs[index + 1], leaves[index + 1], used, retain_graph=True)
        h = outputs[index]
        used = sources[index].estimate(h.detach(), Signal(step=0, target=target, gradient=shown))
        parameters = list(stages[index].parameters())
        grades.append(grade([h], parameters, used=[used], true=[trues[index]], target=[shown], num_parts=8))
    return grades[::-1]


def _trained(source: Any, **settings: Any) -> tuple[Any, Any, tuple[Tensor, Tensor]]:
    x, target = _batches()
    config = PROBLEM.config(
        source,
        model=_chain,
        data=lambda: Data(train=KeyedBatches(x, target, batch_size=16), test=[(x[:48], target[:48])]),
        steps=12,
        **settings,
    )
    prepared = prepare(config)
    return prepared, run_simulated(prepared), (x, target)


def _grades(stage: dict[str, Any]) -> dict[str, float]:
    """Of a stage's source, without what is measured of its output."""
    return {name: value for name, value in stage["probe"].items() if name not in ("effective_rank", "dormant")}


def test_grades_equal_those_of_a_chain_written_out() -> None:
    source = (SyntheticGradient(), ConditionalSyntheticGradient(3), SyntheticGradient())
    prepared, result, (x, target) = _trained(source, probe_samples=20)
    expected = _by_hand(prepared.cut.stages, prepared.sources, x[:20], target[:20])
    for stage, grades in zip(result.summary["stages"], expected, strict=False):
        assert _grades(stage) == pytest.approx(grades, rel=1e-9, abs=1e-12)
        assert set(stage["probe"]) > {"cosine", "target_relative_error", "error_bias", "parameter_direction_noise"}
    assert expected[0]["relative_error"] != pytest.approx(expected[0]["target_relative_error"])


def test_true_gradients_all_the_way_are_graded_perfect() -> None:
    _, result, _ = _trained(TrueGradient(), probe_samples=20)
    for stage in result.summary["stages"][:-1]:
        assert stage["probe"]["cosine"] == pytest.approx(1) and stage["probe"]["relative_error"] == 0
        assert stage["probe"]["parameter_relative_error"] == 0


def test_of_a_shadow_what_does_not_act_is_graded() -> None:
    _, acting, _ = _trained(SyntheticGradient(), probe_samples=20)
    _, result, _ = _trained(Shadow(SyntheticGradient()), probe_samples=20)
    for stage in result.summary["stages"][:-1]:
        assert stage["probe"]["relative_error"] > 0 and stage["probe"]["cosine"] < 0.999
    # In the shadow the chain above is the true one, so what the source learns from is the truth.
    bottom, decoupled = result.summary["stages"][0]["probe"], acting.summary["stages"][0]["probe"]
    assert bottom["target_cosine"] == pytest.approx(bottom["cosine"])
    assert decoupled["target_cosine"] != pytest.approx(decoupled["cosine"])


def test_a_stage_without_a_gradient_is_not_graded_and_gives_the_one_below_no_target() -> None:
    _, result, _ = _trained((SyntheticGradient(), NoGradient(), SyntheticGradient()), probe_samples=20)
    bottom, middle, top, last = map(_grades, result.summary["stages"])
    assert middle == last == {}
    assert "cosine" in bottom and "target_cosine" not in bottom and "target_cosine" in top


# What a user sees of it


def test_every_evaluation_leaves_a_line_of_metrics_and_points_in_tensorboard(tmp_path: Path) -> None:
    case = Case(problem=PROBLEM, settings=SETTINGS | {"probe_samples": 40}, evaluates=True)
    run_simulated(prepare(case.config()), folder=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics" / "stage-1.jsonl").read_text().splitlines()]
    probed = [line for line in lines if "probe_cosine" in line]
    assert [line["step"] for line in probed] == [5, 10, 14]
    assert all({"probe_parameter_direction_bias", "probe_effective_rank"} <= line.keys() for line in probed)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "stage-01")).Reload()
    for tag in ("probe/cosine/parameters", "probe/effective_rank", "probe/dormant"):
        assert [event.step for event in events.Scalars(tag)] == [5, 10, 14]


def test_a_run_with_probes_is_replayed_bit_for_bit(ranks: Ranks, tmp_path: Path) -> None:
    case = Case(problem=PROBLEM, settings=SETTINGS | {"probe_samples": 40}, evaluates=True)
    result = EXECUTORS["threads"].run(case, ranks, folder=tmp_path)
    replay = Replay(prepare(case.config()), tmp_path)
    replay.run()
    assert "P2" in (tmp_path / "order" / "stage-0.txt").read_text()
    assert replay.ends() == []
    modules = [stage.module for stage in replay.stages]
    found = [value for module in modules for value in module.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(found, result.weights.values(), strict=True))


@pytest.mark.parametrize("prefer", ["gradients", "activations"])
def test_probes_pass_through_stages_that_take_whatever_is_there(prefer: str) -> None:
    case = Case(problem=PROBLEM, settings=SETTINGS | {"probe_samples": 40, "arrival": "ready", "prefer": prefer})
    summary = run_simulated(prepare(replace(case, evaluates=True).config())).summary
    assert all(stage["probe"] for stage in summary["stages"][:-1])


@pytest.mark.parametrize("num_test", [0, 30])
def test_a_probe_of_more_samples_than_there_are_is_refused(num_test: int) -> None:
    x, target = _batches()
    test = [(x[:num_test], target[:num_test])] if num_test else []
    with pytest.raises(ConfigurationError, match=rf"probe_samples is 40, .* holds {num_test} samples"):
        train(_chain(), [(x, target)], loss=nn.CrossEntropyLoss(), steps=2, test=test, probe_samples=40)


def test_members_of_a_tuple_are_graded_together_and_integers_pass_through() -> None:
    class Split(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.linear = nn.Linear(width, 6).double()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            h = self.linear(x)
            return h[:, :2], torch.arange(len(x)), h[:, 2:].tanh()

    class Join(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3).double()

        def forward(self, members: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            return self.linear(torch.cat([members[0], members[2]], dim=1))

    x, target = _batches()
    result = train(
        [Split(6), Join()],
        [(x, target)],
        loss=nn.CrossEntropyLoss(),
        steps=4,
        source=SyntheticGradient(),
        test=[(x, target)],
        probe_samples=20,
    )
    assert 0 < result.summary["stages"][0]["probe"]["relative_error"] < 1.5
    assert 1 <= result.summary["stages"][0]["probe"]["effective_rank"] <= 2, "of the first member"


# What is measured of outputs


def test_every_stage_says_the_rank_and_the_dormant_units_of_its_output_in_training_mode() -> None:
    prepared, result, (x, _) = _trained(SyntheticGradient(), probe_samples=20)
    h = x[:20]
    for stage, summary in zip(copy.deepcopy(prepared.cut.stages), result.summary["stages"], strict=True):
        h = stage.train()(h).detach()
        ranks, dormant = RanksOfOutputs(), DormantUnits(taus=(0.025,))
        ranks.update({"h": h})
        dormant.update({"h": h})
        assert summary["probe"]["effective_rank"] == pytest.approx(ranks.result()["h"].effective_rank, rel=1e-6)
        assert summary["probe"]["dormant"] == dormant.result()["h"].shares[0.025]


def test_silent_channels_of_images_and_of_tokens_are_dormant() -> None:
    h = torch.rand(6, 4, 5)
    h[:, :, 1] = 0.0
    assert measure_output(h)["dormant"] == pytest.approx(0.2)
    images = torch.rand(6, 4, 3, 3)
    images[:, :2] = 0.0
    assert measure_output(images)["dormant"] == pytest.approx(0.5)


@pytest.mark.parametrize("h", [torch.tensor([[1.0, float("nan")]]), torch.ones(4), torch.ones(4, 2).long()])
def test_nothing_is_said_of_an_output_that_is_not_finite_or_has_no_units(h: Tensor) -> None:
    assert measure_output(h) == {}
