"""Do all ranks agree on the attempt, whatever an earlier one has left in the store, and does it find its run again?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch.distributed as dist

from pipeline import prepare, run_simulated
from pipeline.executors.attempt import (
    Start,
    find_folder,
    how_it_ended,
    join_attempt,
    remember_end,
    remember_folder,
    start_in,
)
from pipeline.transports.control import Control, World
from tests.reference import Problem


@pytest.fixture
def store() -> dist.TCPStore:
    """As torchrun's agent serves it, through all attempts."""
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def control_of(store: dist.TCPStore, rank: int, *, counted: int, world_size: int = 3) -> Control:
    """A rank whose host has counted this many restarts."""
    return Control(
        World(
            rank=rank,
            world_size=world_size,
            local_rank=rank,
            host="127.0.0.1",
            port=store.port,
            hosts_store=False,
            prefix="test",
            attempt=counted,
        )
    )


def join_all(store: dist.TCPStore, counted: Sequence[int]) -> list[Control]:
    """All ranks of an attempt join it, each with its host's own count."""
    controls = [control_of(store, rank, counted=count) for rank, count in enumerate(counted)]
    with ThreadPoolExecutor(len(controls)) as pool:
        list(pool.map(join_attempt, controls))
    return controls


def test_ranks_agree_though_each_host_counts_the_restarts_of_its_own_ranks_only(store: dist.TCPStore) -> None:
    for attempt, counted in enumerate([(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 2, 0)]):
        controls = join_all(store, counted)
        assert [control.world.attempt for control in controls] == [attempt] * 3


def test_attempt_does_not_see_what_an_earlier_one_has_said(store: dist.TCPStore) -> None:
    join_all(store, (0, 0, 0))[1].put("status", "of the first attempt")
    assert not any(control.has("status") for control in join_all(store, (1, 1, 1)))


def test_attempt_that_nobody_lived_to_count_is_counted_all_the_same(store: dist.TCPStore) -> None:
    assert [control.world.attempt for control in join_all(store, (2, 2, 2))] == [2, 2, 2]
    assert [control.world.attempt for control in join_all(store, (2, 3, 2))] == [3, 3, 3]


def test_run_is_found_again_by_rank_0_and_its_end_by_all(store: dist.TCPStore, tmp_path: Path) -> None:
    first = join_all(store, (0, 0, 0))
    assert find_folder(first[0]) is None and how_it_ended(first[2]) is None
    remember_folder(first[0], tmp_path)
    remember_end(first[0], 1)
    second = join_all(store, (1, 1, 1))
    assert [find_folder(control) for control in second] == [tmp_path, None, None]
    assert [how_it_ended(control) for control in second] == [1, 1, 1]


def test_attempt_goes_on_from_the_last_checkpoint_and_keeps_the_errors_of_the_earlier_ones(tmp_path: Path) -> None:
    problem = Problem(steps=4)
    run_simulated(prepare(problem.config(checkpoint_every=2)), folder=tmp_path)
    for number in range(2):
        (tmp_path / "error.json").write_text(json.dumps({"rank": number}))
        assert start_in(tmp_path) == Start(folder=tmp_path, step=4)
    assert not (tmp_path / "error.json").exists()
    assert [json.loads((tmp_path / f"error-{number}.json").read_text())["rank"] for number in (0, 1)] == [0, 1]
    assert (tmp_path / "metrics").exists()


def test_attempt_without_a_checkpoint_begins_again_in_the_same_folder(tmp_path: Path) -> None:
    for name in ("metrics", "tensorboard", "trace"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stage-0").write_text("of the attempt that left no checkpoint")
    (tmp_path / "config.json").write_text("{}")
    assert start_in(tmp_path) == Start(folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
