"""Every way to drive a run, by name. To put another executor under the suites, add a row to EXECUTORS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from torch import Tensor

from pipeline import Data, Result, prepare
from pipeline.configuration.config import Config
from pipeline.configuration.quickstart import digits
from pipeline.data.feed import Batch
from pipeline.executors.distributed import run_rank
from pipeline.executors.executor import Execute
from pipeline.executors.threaded import run_threaded
from pipeline.executors.training import run_simulated
from pipeline.transports.control import Control, World
from pipeline.transports.placement import place
from tests.reference import Problem
from tests.spawn import Ranks


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run, as it can be told to another process."""

    problem: Problem
    settings: dict[str, Any]
    evaluates: bool = False
    """Whether there is a test set, of two batches."""
    resume: bool = False
    """Go on from the folder's last checkpoint."""

    def config(self) -> Config:
        """The run's configuration."""
        config = self.problem.config(**self.settings)
        if not self.evaluates:
            return config
        ((x, target),) = _test_set()
        test = [(x[:200], target[:200]), (x[200:], target[200:])]
        return replace(config, data=lambda: Data(train=self.problem.batches(), test=test))


@cache
def _test_set() -> Sequence[Batch]:
    return digits().test


@dataclass(frozen=True)
class Outcome:
    """What a run has come to."""

    weights: dict[str, Tensor]
    summary: dict[str, Any]


def _in_this_process(execute: Execute) -> Callable[[Case, Ranks, Path | None], Outcome]:
    def run(case: Case, ranks: Ranks, folder: Path | None) -> Outcome:
        result: Result = execute(prepare(case.config()), folder=folder, resume=case.resume)
        return Outcome(result.export(), result.summary)

    return run


def _on_ranks(world_size: int) -> Callable[[Case, Ranks, Path | None], Outcome]:
    def run(case: Case, ranks: Ranks, folder: Path | None) -> Outcome:
        shares = ranks.run(run_share, case, None if folder is None else str(folder), world_size=world_size)
        weights = {name: value for share in shares for name, value in share.weights.items()}
        return Outcome(weights, shares[0].summary)

    return run


def run_share(world: World, case: Case, folder: str | None) -> Outcome:
    """On one rank: the weights of its own stages, and the summary that every rank has."""
    with nullcontext() if world.rank == 0 else patch("pipeline.configuration.run.rehearse_events", return_value=()):
        prepared = prepare(case.config(), num_ranks=world.world_size)  # rank 0 alone checks a run
    path = None if folder is None else Path(folder)
    summary = run_rank(prepared, Control(world), folder=path, resume=case.resume)
    placement = place(prepared.num_stages, world.world_size)
    weights = {
        full: prepared.cut.stages[index].state_dict()[local]
        for index in range(prepared.num_stages)
        if placement[index] == world.rank
        for local, full in prepared.cut.names(index).items()
    }
    return Outcome(weights, summary)


@dataclass(frozen=True)
class Way:
    """A way to drive a run."""

    name: str
    """Of the executor in the configuration."""
    num_processes: int
    drive: Callable[[Case, Ranks, Path | None], Outcome]

    def run(self, case: Case, ranks: Ranks, *, folder: Path | None = None) -> Outcome:
        named = replace(case, settings=case.settings | {"executor": self.name})
        return self.drive(named, ranks, folder)


EXECUTORS = {
    "simulate": Way("simulate", 1, _in_this_process(run_simulated)),
    "threads": Way("threads", 1, _in_this_process(run_threaded)),
    "1 rank": Way("distributed", 1, _on_ranks(1)),
    "2 ranks": Way("distributed", 2, _on_ranks(2)),
    "4 ranks": Way("distributed", 4, _on_ranks(4)),
}


def each_executor(*names: str) -> list[Any]:
    """Rows of EXECUTORS for `pytest.mark.parametrize`; all of them if none is named."""
    return [
        pytest.param(name, marks=[pytest.mark.distributed] if way.name == "distributed" else [], id=name)
        for name, way in EXECUTORS.items()
        if not names or name in names
    ]
