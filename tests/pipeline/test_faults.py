"""Does a failing rank name itself everywhere, soon, and without leaving a hang or a damaged checkpoint behind?"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from dni import Bernoulli, ConditionalSyntheticGradient, Never
from pipeline import RemoteFailure, StageFailure, partition, prepare, run_simulated
from pipeline.configuration.config import Config
from pipeline.errors import RunError
from pipeline.executors.distributed import run_rank
from pipeline.records.checkpoint import latest
from pipeline.records.monitor import StageStatus
from pipeline.transports.control import Control, World
from pipeline.transports.placement import place
from tests.faults import FailAt, Fault
from tests.reference import Problem, assert_bit_equal
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
    for rank, (_, _, (name, where, num_threads)) in enumerate(outcomes):
        assert name == ("StageFailure" if rank == stage else "RemoteFailure")
        assert where[:3] == (stage, step, "forward")
        assert "ArithmeticError: scripted fault" in where[3]
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
def test_ranks_that_survive_a_killed_one_say_which_stage_is_gone(ranks: Ranks, tmp_path: Path) -> None:
    outcomes = ranks.outcomes(fail_on_rank, 2, 20, "kill", str(tmp_path), world_size=4)
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


def config_stopping_at(step: int, fault: Fault = "stop", *, pid: int | None = None) -> Config:
    """Four stages with the true gradient; stage 2 sends a signal at a step."""

    def model() -> object:
        blocks = list(PROBLEM.model())
        blocks[2] = nn.Sequential(FailAt(step, fault, pid=pid), blocks[2])
        return partition(nn.Sequential(*blocks), at=["1", "2", "3"])

    return PROBLEM.config(model=model, executor="distributed", dead_after_s=2.0)


def run_paused(world: World) -> tuple[set[tuple[int, int]], dict[str, torch.Tensor]]:
    """Rank 1 stops itself, rank 0 wakes it when it is shown as silent; who was silent, and this rank's weights."""
    control = Control(world)
    control.put(f"pid/{world.rank}", os.getpid())
    (paused,) = control.gather(["pid/1"])
    silent: set[tuple[int, int]] = set()

    def wake_the_silent(statuses: Sequence[StageStatus]) -> None:
        now_silent = {(status.rank, status.stage) for status in statuses if status.silent_s}
        silent.update(now_silent)
        if now_silent:
            os.kill(paused, signal.SIGCONT)

    prepared = prepare(config_stopping_at(11), num_ranks=world.world_size)
    run_rank(prepared, control, folder=None, on_status=wake_the_silent)
    own = [stage for stage, holder in enumerate(place(4, world.world_size)) if holder == world.rank]
    weights = {
        full: prepared.cut.stages[index].state_dict()[local]
        for index in own
        for local, full in prepared.cut.names(index).items()
    }
    return silent, weights


@pytest.mark.distributed
def test_paused_rank_is_shown_as_silent_and_nothing_is_lost_when_it_goes_on(ranks: Ranks) -> None:
    (silent, lower), (_, upper) = ranks.run(run_paused, world_size=2)
    assert silent == {(1, 2), (1, 3)}  # rank, stage
    undisturbed = run_simulated(prepare(config_stopping_at(PROBLEM.steps)))
    assert_bit_equal(lower | upper, undisturbed.export())


def run_without_sign_of_life(world: World) -> tuple[str, int]:
    """Rank 1 stops itself for good; rank 0 wakes it when all is over. The error, and the threads left over."""
    before = threading.active_count()
    control = Control(world)
    control.put(f"pid/{world.rank}", os.getpid())
    (stopped,) = control.gather(["pid/1"])
    prepared = prepare(config_stopping_at(11), num_ranks=world.world_size)
    try:
        run_rank(prepared, control, folder=None)
    except RemoteFailure as error:
        if world.rank == 0:
            os.kill(stopped, signal.SIGCONT)
        return str(error), threading.active_count() - before
    raise AssertionError("the run should have failed")


@pytest.mark.distributed
def test_rank_without_a_sign_of_life_is_named_on_every_rank(ranks: Ranks) -> None:
    told = ranks.run(run_without_sign_of_life, world_size=3)
    for message, num_threads in told:
        assert message.startswith("rank 1: the process of stage 2 has given no sign of life for 2 s (dead_after_s)")
        assert "it was last seen" in message
        assert num_threads == 0


def run_until_the_store_dies(world: World, folder: str) -> tuple[str, int, float]:
    """Rank 2 serves a store of its own, which stage 2 on rank 1 kills; the error, the threads left, and how soon."""
    outer = Control(world)
    if world.rank == 2:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        outer.put("store", {"port": store.port, "pid": os.getpid()})
        signal.pause()
    (served,) = outer.gather(["store"])
    before = threading.active_count()
    own = replace(world, world_size=2, port=served["port"])
    prepared = prepare(config_stopping_at(11, "kill", pid=served["pid"]), num_ranks=2)
    died_s = time.monotonic()

    def note(error: BaseException) -> None:
        nonlocal died_s
        died_s = time.monotonic()

    try:
        run_rank(prepared, Control(own), folder=Path(folder), on_failure=note)
    except RunError as error:
        return f"{type(error).__name__}: {error}", threading.active_count() - before, time.monotonic() - died_s
    raise AssertionError("the run should have failed")


@pytest.mark.distributed
def test_death_of_the_store_ends_every_rank_with_a_clear_message(ranks: Ranks, tmp_path: Path) -> None:
    outcomes = ranks.outcomes(run_until_the_store_dies, str(tmp_path), world_size=3)
    assert outcomes[2][1:] == ("died", -9)
    for _, kind, value in outcomes[:2]:
        assert kind == "returned", value
        message, num_threads, took_s = value
        assert message.startswith("LostStore: the store at 127.0.0.1:") and "has died or was killed" in message
        assert num_threads == 0
        assert took_s < 20.0  # a hang would last for minutes
    assert "the store at" in json.loads((tmp_path / "error.json").read_text())["message"]
