"""Does a failing rank name itself everywhere, soon, and without leaving a hang or a damaged checkpoint behind?"""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dni import Bernoulli, ConditionalSyntheticGradient, Never
from pipeline import RemoteFailure, StageFailure, partition, prepare, run_simulated
from pipeline.checkpoint import latest
from pipeline.config import Config
from pipeline.control import Control, World
from pipeline.distributed import run_rank
from tests.faults import FailAt, Fault
from tests.reference import Problem
from tests.spawn import Ranks

PROBLEM = Problem(steps=40)


def config_failing_at(stage: int, step: int, fault: Fault) -> Config:
    """Four stages with synthetic gradients; one of them fails at a step."""

    def model() -> object:
        blocks = list(PROBLEM.model())
        blocks[stage] = nn.Sequential(FailAt(step, fault), blocks[stage])
        return partition(nn.Sequential(*blocks), at=["1", "2", "3"])

    source = ConditionalSyntheticGradient(num_classes=10)
    return replace(PROBLEM.config(source), model=model, sync=Bernoulli(0.2), checkpoint_every=8)


def fail_on_rank(
    world: World, stage: int, step: int, fault: Fault, folder: str, transport: str = "auto"
) -> tuple[str, object, int]:
    """Run into the fault; returns the exception's name, the failure record and the threads left over."""
    before = threading.active_count()
    config = replace(config_failing_at(stage, step, fault), executor="distributed", transport=(transport,))
    prepared = prepare(config, num_ranks=world.world_size)
    try:
        run_rank(prepared, Control(world), folder=Path(folder))
    except StageFailure as error:
        return (
            type(error).__name__,
            (error.stage, error.step, error.phase, str(error)),
            threading.active_count() - before,
        )
    except RemoteFailure as error:
        record = error.record
        place = (record.stage, record.step, record.phase, record.message)
        return type(error).__name__, place, threading.active_count() - before
    raise AssertionError("the run should have failed")


@pytest.mark.parametrize(
    ("fault", "phase", "cause"),
    [("raise", "forward", "scripted fault"), ("nan", "backward", "NaN")],
)
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_simulated_run_names_stage_step_and_cause(stage: int, fault: Fault, phase: str, cause: str) -> None:
    config = replace(config_failing_at(stage, 11, fault), sync=Never(), source=PROBLEM.config().source)
    with pytest.raises(StageFailure) as caught:
        run_simulated(prepare(config))
    if fault == "raise":
        assert (caught.value.stage, caught.value.step, caught.value.phase) == (stage, 11, phase)
        assert cause in str(caught.value)
        assert isinstance(caught.value.__cause__, ArithmeticError)
    else:  # the NaN travels up and is caught where the loss is
        assert (caught.value.stage, caught.value.step) == (3, 11)
        assert "nan" in str(caught.value).lower()


@pytest.mark.distributed
@pytest.mark.parametrize(("stage", "step", "transport"), [(0, 1, "auto"), (1, 19, "gloo"), (3, 33, "auto")])
def test_every_rank_learns_who_failed_first(
    ranks: Ranks, tmp_path: Path, stage: int, step: int, transport: str
) -> None:
    outcomes = ranks.outcomes(fail_on_rank, stage, step, "raise", str(tmp_path), transport, world_size=4)
    assert [kind for _, kind, _ in outcomes] == ["returned"] * 4, outcomes
    for rank, (_, _, (name, place, num_threads)) in enumerate(outcomes):
        assert name == ("StageFailure" if rank == stage else "RemoteFailure")
        assert place[:3] == (stage, step, "forward")
        assert "ArithmeticError: scripted fault" in place[3]
        assert num_threads == 0
    times = [when for when, _, _ in outcomes]
    assert max(times) - min(times) < 20.0  # a hang would last for minutes; how soon it is, is measured elsewhere
    record = json.loads((tmp_path / "error.json").read_text())
    assert (record["rank"], record["stage"], record["step"]) == (stage, stage, step)
    assert "scripted fault" in record["traceback"]


@pytest.mark.distributed
def test_nan_in_a_loss_stops_every_rank_and_leaves_the_last_checkpoint_whole(ranks: Ranks, tmp_path: Path) -> None:
    outcomes = ranks.outcomes(fail_on_rank, 1, 21, "nan", str(tmp_path), world_size=2)
    for _, kind, value in outcomes:
        assert kind == "returned", value
        assert "NaN" in value[1][3] or "nan" in value[1][3]
        assert value[1][1] == 21
    _, manifest = latest(tmp_path / "checkpoints")
    assert manifest.step == 16


@pytest.mark.distributed
def test_ranks_that_survive_a_killed_one_say_which_stage_is_gone(tmp_path: Path) -> None:
    pool = Ranks()
    try:
        outcomes = pool.outcomes(fail_on_rank, 2, 20, "kill", str(tmp_path), world_size=4)
    finally:
        pool.close()
    assert outcomes[2][1:] == ("died", -9)
    for rank in (0, 1, 3):
        _, kind, text = outcomes[rank]
        name, (stage, _, _, message), num_threads = text
        assert (kind, name, stage, num_threads) == ("returned", "RemoteFailure", 2, 0)
        assert message.startswith("the process of stage 2 has died or was killed; it was last seen"), message
    _, manifest = latest(tmp_path / "checkpoints")
    assert manifest.step == 16


def fail_while_setting_up(world: World, folder: str) -> str:
    """Only the rank of stage 1 fails, while it sets itself up; returns the exception's name and message."""
    prepared = prepare(PROBLEM.config(), num_ranks=world.world_size)
    if world.rank == 1:
        prepared = replace(prepared, config=replace(prepared.config, optimizer=refuse))
    try:
        run_rank(prepared, Control(world), folder=Path(folder))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("the run should have failed")


def refuse(parameters: object) -> torch.optim.Optimizer:
    """An optimiser that cannot be made."""
    raise ValueError("no optimiser here")


@pytest.mark.distributed
def test_rank_that_fails_while_it_sets_itself_up_ends_the_others_too(ranks: Ranks, tmp_path: Path) -> None:
    told = ranks.run(fail_while_setting_up, str(tmp_path), world_size=2)
    assert told[0] == "RemoteFailure: rank 1: ValueError: no optimiser here"
    assert told[1] == "ValueError: no optimiser here"
