"""Does a run that was killed at any step and resumed, wherever, equal one that never was, bit for bit?"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dni import (
    Bernoulli,
    BlockCadence,
    ByConfidence,
    ConditionalSyntheticGradient,
    Constant,
    Cosine,
    Every,
    LocalLoss,
    MixedGradient,
    Never,
    NoGradient,
    Parameter,
    Periodic,
    Quadrants,
    RandomCadence,
    Steps,
    Sum,
    SyntheticGradient,
    TopOrAll,
    TrueGradient,
)
from pipeline import Adam, CheckpointError, Data, KeyedBatches, Sgd, StageFailure, partition, prepare, run_simulated
from pipeline.configuration.config import Config
from pipeline.executors.distributed import run_rank
from pipeline.records.checkpoint import latest
from pipeline.transports.control import Control, World
from tests.executors import EXECUTORS, Case
from tests.faults import FailAt, FailAtUpdate, Fault
from tests.reference import Problem, assert_bit_equal
from tests.spawn import Ranks

PROBLEM = Problem(num_stages=4, dropout=0.1, optimizer="adam", steps=24)


def make_config(fail_at: int | None = None, fault: Fault = "raise") -> Config:
    """Synthetic gradients, syncs, sparse updates, cadences and dropout: everything that has a state."""

    def model() -> object:
        blocks = list(PROBLEM.model())
        blocks[2] = nn.Sequential(FailAt(fail_at, fault), blocks[2])
        return partition(nn.Sequential(*blocks), at=["1", "2", "3"])

    source = ConditionalSyntheticGradient(num_classes=10)
    return replace(
        PROBLEM.config(source),
        model=model,
        sync=Bernoulli(0.3),
        cadence=(1, 2, 1, 3),
        update_probability=(1.0, 0.7, 1.0, 1.0),
        checkpoint_every=6,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of the run that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return run_simulated(prepare(make_config()), folder=folder).export()


# On one thread


@pytest.mark.parametrize("step", [6, 7, 11, 12, 13, 18, 23])
def test_run_killed_at_a_step_and_resumed_equals_one_never_killed(
    step: int, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(StageFailure):
        run_simulated(prepare(make_config(fail_at=step)), folder=tmp_path)
    result = run_simulated(prepare(make_config()), folder=tmp_path, resume=True)
    assert result.summary["resumed_at"] == 6 * (step // 6)
    assert result.summary["resume_exact"]
    assert_bit_equal(result.export(), undisturbed)


def test_run_killed_before_its_first_checkpoint_says_that_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(StageFailure):
        run_simulated(prepare(make_config(fail_at=3)), folder=tmp_path)
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        run_simulated(prepare(make_config()), folder=tmp_path, resume=True)


def test_longer_run_resumed_from_a_finished_one_equals_the_longer_run(tmp_path: Path) -> None:
    short = replace(make_config(), steps=18)
    run_simulated(prepare(short), folder=tmp_path)
    extended = run_simulated(prepare(make_config()), folder=tmp_path, resume=True)
    whole = run_simulated(prepare(make_config()))
    with pytest.raises(AssertionError):  # without a folder nothing was saved, but the drains happen in every run alike
        assert_bit_equal(extended.export(), run_simulated(prepare(short)).export())
    assert_bit_equal(extended.export(), whole.export())


def test_data_without_keys_is_skipped_with_a_warning_and_the_summary_says_that_resuming_was_not_exact(
    tmp_path: Path,
) -> None:
    batches = [(x, y) for _, (x, y) in zip(range(5), PROBLEM.batches().start(0), strict=False)]
    config = replace(make_config(), data=lambda: Data(train=batches))
    run_simulated(prepare(replace(config, steps=12)), folder=tmp_path)
    with pytest.warns(UserWarning, match="12 batches are skipped"):
        result = run_simulated(prepare(config), folder=tmp_path, resume=True)
    assert (result.summary["resumed_at"], result.summary["resume_exact"]) == (12, False)


# With any settings

X = torch.randn(22, 4, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(22) % 3
STEPS = 14
SOURCES = st.sampled_from(
    [
        *(TrueGradient(), SyntheticGradient(), MixedGradient(ConditionalSyntheticGradient(3)), LocalLoss(3)),
        *(NoGradient(), Sum(LocalLoss(3), SyntheticGradient())),
    ],
)


def small_stages(num_stages: int, *, batch_norm: bool, fail_at: tuple[int, int] | None) -> list[nn.Module]:
    """A chain with dropout, and a fault in one stage at one of its forwards."""
    stages = []
    for index in range(num_stages):
        layers: list[nn.Module] = [nn.Linear(4, 3 if index == num_stages - 1 else 4)]
        layers += [nn.BatchNorm1d(4)] if batch_norm and index < num_stages - 1 else []
        layers += [nn.Dropout(0.2), FailAt(None if fail_at is None or fail_at[0] != index else fail_at[1])]
        stages.append(nn.Sequential(*layers))
    return stages


BLOCKS = (
    BlockCadence(Quadrants("0.0.weight"), (Periodic(2), ByConfidence(warmup=1, longest=4), Periodic(5), Periodic(1))),
    BlockCadence(Parameter("0.0.bias"), RandomCadence(0.4)),
)


@st.composite
def runs(draw: st.DrawFn) -> tuple[int, dict[str, Any]]:
    """Any run in fixed order: its number of stages and its settings."""
    num_stages = draw(st.integers(1, 4))
    cadences = st.lists(st.integers(1, 4), min_size=num_stages, max_size=num_stages)
    chosen: dict[str, Any] = {
        "source": tuple(draw(SOURCES) for _ in range(num_stages - 1)) or (TrueGradient(),),
        "sync": draw(st.sampled_from([Never(), Every(3), Bernoulli(0.4)])),
        "cadence": tuple(draw(cadences)),
        "send_every": (draw(st.sampled_from([1, 1, 2])),),
        "update_probability": (draw(st.sampled_from([1.0, 0.6])),),
        "optimizer": draw(st.sampled_from([Adam(lr=0.01), Sgd(lr=0.05, momentum=0.9, weight_decay=0.01)])),
        "schedule": draw(st.sampled_from([Constant(), Steps(at=(5,)), Cosine(total=STEPS)])),
        "delay": (draw(st.integers(1, 3)),),
        "prefer": draw(st.sampled_from(["gradients", "activations"])),
        "stash": draw(st.sampled_from(["hold", "recompute", "weights"])),
        "checkpoint_every": draw(st.integers(1, 6)),
        "evaluate_every": draw(st.sampled_from([0, 3, 4])),
        "blocks": draw(st.sampled_from([(), BLOCKS])),
        "participation": draw(st.sampled_from([None, TopOrAll(0.5, rescale="elapsed")])),
        "rate_rule": draw(st.sampled_from(["none", "none", "linear", "sqrt"])),
        "seed": draw(st.integers(0, 3)),
    }
    waits = num_stages > 1 and any(isinstance(source, TrueGradient) for source in chosen["source"])
    if chosen["sync"] == Never() and not waits:
        chosen["stash"] = "hold"  # nothing waits for a gradient, so any other would only warn
    elif chosen["stash"] != "hold" and draw(st.booleans()):
        chosen |= {"max_staleness": 1, "at_max_staleness": "drop"}
    return num_stages, chosen


def small_config(
    run: tuple[int, dict[str, Any]], *, batch_norm: bool, fail_at: tuple[int, int] | None = None, **more: Any
) -> Config:
    """One of those runs."""
    num_stages, chosen = run
    return Config(
        model=lambda: small_stages(num_stages, batch_norm=batch_norm, fail_at=fail_at),
        data=lambda: Data(train=KeyedBatches(X, TARGET, batch_size=4, drop_last=True), test=[(X, TARGET)]),
        loss=nn.CrossEntropyLoss(),
        steps=STEPS,
        **{**chosen, **more},
    )


@pytest.mark.filterwarnings("ignore:a setting has no effect. the test data")
@settings(max_examples=25, deadline=None, derandomize=True)
@given(run=runs(), batch_norm=st.booleans(), stage=st.integers(0, 3), step=st.integers(1, STEPS - 1))
def test_run_with_any_settings_killed_anywhere_and_resumed_equals_one_never_killed(
    tmp_path_factory: pytest.TempPathFactory, run: tuple[int, dict[str, Any]], batch_norm: bool, stage: int, step: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    expected = run_simulated(prepare(small_config(run, batch_norm=batch_norm))).export()
    stage %= min(run[0], 3)  # a fourth one may get a single microbatch, and the first is what a run is checked with
    takes_every = run[1]["send_every"][0] ** stage
    own_step = max(1, min(step // takes_every, STEPS // takes_every - 1))
    step = (own_step + 1) * takes_every - 1
    failing = small_config(run, batch_norm=batch_norm, fail_at=(stage, own_step))
    with patch("os.fsync"), patch("pipeline.records.board.EventFileWriter"):  # nothing of this test, and slow
        with pytest.raises(StageFailure):
            run_simulated(prepare(failing), folder=folder)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*is unfinished.*")  # killed while it saved
                resumed = run_simulated(prepare(small_config(run, batch_norm=batch_norm)), folder=folder, resume=True)
        except CheckpointError:
            assert step <= 2 * run[1]["checkpoint_every"] + 3, "it was killed before its first checkpoint"
            return
    assert resumed.summary["resumed_at"] <= step
    assert_bit_equal(resumed.export(), expected)


@pytest.mark.filterwarnings("ignore:a setting has no effect. the test data")
@settings(max_examples=12, deadline=None, derandomize=True)
@given(run=runs(), step=st.integers(1, STEPS - 2))
def test_run_stopped_by_a_signal_says_whether_going_on_is_exact_and_is_right(
    tmp_path_factory: pytest.TempPathFactory, run: tuple[int, dict[str, Any]], step: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    expected = run_simulated(prepare(small_config(run, batch_norm=True))).export()

    def interrupt(statuses: Sequence[Any]) -> None:
        if statuses[0].step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with patch("os.fsync"), patch("pipeline.records.board.EventFileWriter"):
        config = small_config(run, batch_norm=True, log_every=1)
        stopped = run_simulated(prepare(config), folder=folder, on_status=interrupt, stop_on_signal=True)
        resumed = run_simulated(prepare(config), folder=folder, resume=True)
    assert stopped.summary["status"] == "interrupted" and resumed.summary["status"] == "finished"
    assert resumed.summary["resumed_at"] == stopped.summary["steps"]
    if stopped.summary["resume_exact"]:
        assert_bit_equal(resumed.export(), expected)


# In any executor


def make_case(*, fails: bool = False, resume: bool = False) -> Case:
    """The run above; if it fails, then in stage 2, after its first two checkpoints."""
    config = make_config()
    names = ("source", "sync", "cadence", "update_probability", "checkpoint_every")
    chosen = {name: getattr(config, name) for name in names}
    if fails:
        plain = PROBLEM.make_optimizer
        chosen["optimizer"] = (plain, plain, FailAtUpdate(plain, 13), plain)
    return Case(problem=PROBLEM, settings=chosen, resume=resume)


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    """The weights of that run if nothing happens to it."""
    return run_simulated(prepare(make_case().config())).export()


@pytest.mark.distributed
@pytest.mark.parametrize(("first", "second"), list(pairwise([*EXECUTORS, "simulate"])))
def test_run_that_failed_in_one_executor_and_goes_on_in_another_equals_one_that_never_failed(
    ranks: Ranks, tmp_path: Path, expected: dict[str, torch.Tensor], first: str, second: str
) -> None:
    with pytest.raises((StageFailure, AssertionError), match="scripted fault"):
        EXECUTORS[first].run(make_case(fails=True), ranks, folder=tmp_path)
    assert latest(tmp_path / "checkpoints")[1].step == 12
    outcome = EXECUTORS[second].run(make_case(resume=True), ranks, folder=tmp_path)
    assert (outcome.summary["resumed_at"], outcome.summary["resume_exact"]) == (12, True)
    assert_bit_equal(outcome.weights, expected)
    for stage in range(4):
        order = (tmp_path / "order" / f"stage-{stage}.txt").read_text().split()
        assert [message for message in order if message[0] == "A"] == [f"A{step}" for step in range(24)]


def train_ranks(world: World, folder: str, fail_at: int | None, fault: Fault, resume: bool) -> list[str]:
    """One attempt of the run on several ranks; what this one was warned of."""
    prepared = prepare(make_config(fail_at, fault), num_ranks=world.world_size)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        run_rank(prepared, Control(world), folder=Path(folder), resume=resume)
    return [str(warning.message) for warning in caught]


def saved_weights(run: Path) -> dict[str, torch.Tensor]:
    """What the newest checkpoint holds."""
    folder, manifest = latest(run / "checkpoints")
    assert manifest.step == PROBLEM.steps
    return {
        name: value
        for index in range(manifest.num_stages)
        for name, value in torch.load(folder / f"stage-{index}.pt", weights_only=True)["module"].items()
    }


@pytest.mark.distributed
def test_killed_rank_resumed_on_other_ranks_equals_the_run_never_killed(
    mortals: Ranks, ranks: Ranks, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    outcomes = mortals.outcomes(train_ranks, str(tmp_path), 13, "kill", False, world_size=2)
    assert outcomes[1][1] == "died"
    ranks.run(train_ranks, str(tmp_path), None, "raise", True, world_size=4)
    assert_bit_equal(saved_weights(tmp_path), undisturbed)


@pytest.mark.distributed
def test_ranks_all_go_on_from_the_checkpoint_that_rank_0_found_to_be_whole(
    ranks: Ranks, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    ranks.run(train_ranks, str(tmp_path), None, "raise", False, world_size=2)
    damaged = tmp_path / "checkpoints" / "step-000000024" / "stage-3.pt"  # a file that rank 0 has no other use for
    damaged.write_bytes(damaged.read_bytes()[:-3] + b"abc")
    told = ranks.run(train_ranks, str(tmp_path), None, "raise", True, world_size=2)
    assert len(told[0]) == 1 and told[1] == []
    assert "step-000000024 is damaged: stage-3.pt was changed" in told[0][0]
    assert "step-000000018 is used instead" in told[0][0]
    assert_bit_equal(saved_weights(tmp_path), undisturbed)


@pytest.mark.distributed
def test_ranks_without_a_whole_checkpoint_all_say_what_rank_0_found(ranks: Ranks, tmp_path: Path) -> None:
    outcomes = ranks.outcomes(train_ranks, str(tmp_path), None, "raise", True, world_size=2)
    for _, kind, text in outcomes:
        assert kind == "raised" and "holds no whole checkpoint" in text
    assert "RemoteFailure: rank 0: CheckpointError" in outcomes[1][2]
