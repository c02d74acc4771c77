"""Does a run that cannot save, or dies while it saves, keep the checkpoint before, and go on from it exactly?"""

from __future__ import annotations

import errno
import json
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias
from unittest.mock import patch

import pytest
import torch

from dni import Bernoulli, ConditionalSyntheticGradient
from pipeline import RemoteFailure, SaveFailure, prepare, run_simulated
from pipeline.executors.distributed import run_rank
from pipeline.records.checkpoint import latest
from pipeline.transports.control import Control, World
from tests.executors import EXECUTORS, Case
from tests.reference import Problem, assert_bit_equal
from tests.spawn import Ranks

Moment: TypeAlias = Literal["stage's file", "stage's name", "manifest's name"]
MOMENTS: tuple[Moment, ...] = ("stage's file", "stage's name", "manifest's name")
PROBLEM = Problem(num_stages=4, optimizer="adam", steps=16)
SETTINGS: dict[str, Any] = {
    "source": ConditionalSyntheticGradient(num_classes=10),
    "sync": Bernoulli(0.3),
    "cadence": (1, 2, 1, 3),
    "checkpoint_every": 4,
}
CASE = Case(problem=PROBLEM, settings=SETTINGS)
RESUMED = Case(problem=PROBLEM, settings=SETTINGS, resume=True)


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    """The weights of the run that nothing happens to."""
    return run_simulated(prepare(CASE.config())).export()


def failing_at(moment: Moment, folder: Path, fail: Callable[[], None]) -> Any:
    """Call `fail` when stage 2 is saved at step 8, or when that checkpoint is declared whole."""
    save, replace = torch.save, os.replace
    at = folder / "checkpoints" / "step-000000008"

    def save_or_fail(state: Any, file: Any) -> None:
        if moment == "stage's file" and Path(file.file.name) == at / "stage-2.pt.tmp":
            file.write(b"half of it")
            fail()
        save(state, file)

    def replace_or_fail(source: Path, target: Path) -> None:
        name = {"stage's file": "", "stage's name": "stage-2.pt", "manifest's name": "manifest.json"}[moment]
        if Path(target) == at / name:
            fail()
        replace(source, target)

    return patch.multiple(torch, save=save_or_fail), patch.multiple(os, replace=replace_or_fail)


def no_space() -> None:
    """What a full disk says."""
    raise OSError(errno.ENOSPC, "No space left on device")


def die() -> None:
    """End this process without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def save_badly(world: World, folder: str, moment: Moment, deadly: bool) -> str:
    """One attempt; returns how it ended on this rank."""
    patches = failing_at(moment, Path(folder), die if deadly else no_space)
    with patches[0], patches[1]:
        try:
            run_rank(prepare(CASE.config(), num_ranks=world.world_size), Control(world), folder=Path(folder))
        except (SaveFailure, RemoteFailure) as error:
            return f"{type(error).__name__}: {error}"
    raise AssertionError("the run should have failed")


def assert_goes_on_exactly(executor: str, ranks: Ranks, folder: Path, expected: dict[str, torch.Tensor]) -> None:
    """From step 4, with nothing left over of the attempt at step 8."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        assert latest(folder / "checkpoints")[1].step == 4
    assert "step-000000008 is unfinished: it has no manifest.json" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        outcome = EXECUTORS[executor].run(RESUMED, ranks, folder=folder)
    assert outcome.summary["resumed_at"] == 4
    assert_bit_equal(outcome.weights, expected)
    assert not list(folder.rglob("*.tmp"))
    assert latest(folder / "checkpoints")[1].step == 16


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("executor", ["simulate", "threads"])
def test_full_disk_ends_the_run_by_name_and_it_goes_on_later(
    ranks: Ranks, tmp_path: Path, expected: dict[str, torch.Tensor], executor: str, moment: Moment
) -> None:
    patches = failing_at(moment, tmp_path, no_space)
    with patches[0], patches[1], pytest.raises(SaveFailure, match="No space left on device") as caught:
        EXECUTORS[executor].run(CASE, ranks, folder=tmp_path)
    assert caught.value.step == 8 and (caught.value.stage == 2 or moment == "manifest's name")
    assert not list(tmp_path.rglob("*.tmp"))
    assert_goes_on_exactly(executor, ranks, tmp_path, expected)


@pytest.mark.distributed
@pytest.mark.parametrize("moment", MOMENTS)
def test_full_disk_ends_every_rank_by_name_and_they_go_on_later(
    ranks: Ranks, tmp_path: Path, expected: dict[str, torch.Tensor], moment: Moment
) -> None:
    ended = ranks.run(save_badly, str(tmp_path), moment, False, world_size=2)
    file = "manifest.json" if moment == "manifest's name" else "stage-2.pt"
    for said in ended:
        assert "could not be saved at step 8" in said and f"step-000000008/{file}: No space left on device" in said
    assert sorted(said.partition(":")[0] for said in ended) == ["RemoteFailure", "SaveFailure"]
    record = json.loads((tmp_path / "error.json").read_text())
    assert (record["step"], record["phase"]) == (8, "checkpoint")
    assert_goes_on_exactly("2 ranks", ranks, tmp_path, expected)


@pytest.mark.distributed
@pytest.mark.parametrize("moment", ["stage's file", "manifest's name"])
def test_rank_killed_while_it_saves_leaves_the_checkpoint_before(
    mortals: Ranks, ranks: Ranks, tmp_path: Path, expected: dict[str, torch.Tensor], moment: Moment
) -> None:
    outcomes = mortals.outcomes(save_badly, str(tmp_path), moment, True, world_size=2)
    assert sorted(kind for _, kind, _ in outcomes) == ["died", "returned"]
    dead = next(rank for rank, (_, kind, _) in enumerate(outcomes) if kind == "died")
    assert outcomes[1 - dead][2].startswith(f"RemoteFailure: rank {dead}"), outcomes[1 - dead][2]
    assert_goes_on_exactly("threads", ranks, tmp_path, expected)
