"""Does a run that was killed at any step and resumed equal one that never was, bit for bit?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dni import Bernoulli, ConditionalSyntheticGradient
from pipeline import CheckpointError, Data, StageFailure, partition, prepare, run_simulated
from pipeline.config import Config
from pipeline.control import Control, World
from pipeline.distributed import run_rank
from tests.faults import FailAt, Fault
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


def train_ranks(world: World, folder: str, fail_at: int | None, fault: Fault, resume: bool) -> bool:
    """One attempt of the run on several ranks."""
    prepared = prepare(make_config(fail_at, fault), num_ranks=world.world_size)
    run_rank(prepared, Control(world), folder=Path(folder), resume=resume)
    return True


@pytest.mark.distributed
def test_killed_rank_resumed_on_other_ranks_and_executors_equals_the_run_never_killed(
    ranks: Ranks, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    pool = Ranks()
    try:
        outcomes = pool.outcomes(train_ranks, str(tmp_path), 15, "kill", False, world_size=4)
    finally:
        pool.close()
    assert outcomes[2][1] == "died"
    pool_of_two = ranks.run(train_ranks, str(tmp_path), None, "raise", True, world_size=2)
    assert pool_of_two == [True, True]
    saved = {}
    for index in range(4):
        state = torch.load(tmp_path / "checkpoints" / "step-000000024" / f"stage-{index}.pt", weights_only=True)
        saved |= state["module"]
    assert_bit_equal(saved, undisturbed)


@pytest.mark.distributed
def test_two_runs_with_synthetic_gradients_are_bit_equal_whatever_the_executor(
    ranks: Ranks, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    ranks.run(train_ranks, str(tmp_path), None, "raise", False, world_size=4)
    saved = {}
    for index in range(4):
        state = torch.load(tmp_path / "checkpoints" / "step-000000024" / f"stage-{index}.pt", weights_only=True)
        saved |= state["module"]
    assert_bit_equal(saved, undisturbed)
