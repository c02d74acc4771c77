"""Does the benchmark of real stages still run, and does its README say no more than its results?"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dni import GradientSource
from experiments.datasets import Dataset
from experiments.real_stages.cases import Case, all_cases, config, find_cut, network, source
from experiments.real_stages.learning import learning_config
from experiments.real_stages.run import peak_mib, run_case
from pipeline import prepare, run_simulated
from pipeline.transports.control import World
from tests.spawn import Ranks

WIDTH = 16
CASES = all_cases(microbatches=4, fill=2)
LOSSES = {"backprop": 2.296425, "cDNI": 2.296663}
"""Of the second step with seed 0."""


def _run(world: World, case: Case) -> float:
    period_ms = run_case(case, world, at=("8",), width=WIDTH)["period_ms"]
    assert isinstance(period_ms, float)
    return period_ms


@pytest.mark.distributed
@pytest.mark.experiment
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_takes_some_time(case: Case, ranks: Ranks) -> None:
    lower, upper = ranks.run(_run, case, world_size=2)
    assert (lower > 0) == (case.kind != "alone") and (upper > 0) == (case.kind != "one process")


@pytest.mark.experiment
@pytest.mark.parametrize("method", LOSSES)
def test_network_that_learns_takes_two_steps_with_the_losses_written_down(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(128, 784, generator=generator), torch.randint(10, (128,), generator=generator)
    data = Dataset(train_x=x, train_y=target, test_x=x[:8], test_y=target[:8], num_classes=10)
    losses: list[float] = []
    asked = learning_config(method, per_update=1, rate=0.005, seed=0, steps=2, width=WIDTH, data=data)
    run_simulated(prepare(replace(asked, log_every=1)), on_status=lambda found: losses.append(found[-1].loss))
    assert losses[-1] == pytest.approx(LOSSES[method], rel=1e-4)


@pytest.mark.experiment
def test_ours_and_plain_loops_train_the_same_network() -> None:
    cut = prepare(config(CASES[0], at=("8",), width=WIDTH)).cut
    assert [sum(p.numel() for p in stage.parameters()) for stage in cut.stages] == [4 * 272, 4 * 272 + 170]
    assert len(network()) == 17 and cut.starts == ("8",)
    assert all(isinstance(source(name), GradientSource) for name in ("rank 128", "full rank"))


def test_cut_by_measured_time_names_a_layer() -> None:
    (at,) = find_cut(64)
    assert 1 <= int(at) <= 16


def test_cases_measure_whole_updates() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.first % case.per_update == case.microbatches % case.per_update == 0 for case in CASES)


def test_a_process_knows_how_much_memory_it_has_had() -> None:
    before = peak_mib()
    torch.zeros(64 * 2**20 // 4)
    assert 1.0 < before <= peak_mib() < math.inf
