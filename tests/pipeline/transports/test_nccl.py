"""Does a run over NCCL edges do the same as one without? Needs two GPUs: NCCL refuses two ranks on one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dni import Bernoulli, ConditionalSyntheticGradient
from pipeline import prepare, run_simulated
from pipeline.configuration.config import Config
from pipeline.executors.distributed import run_rank
from pipeline.transports.control import Control, World
from tests.reference import Problem
from tests.spawn import Ranks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.distributed,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]

PROBLEM = Problem(num_stages=4, batch_size=96, steps=20)


def config(device: str) -> Config:
    """Messages both ways, a short last batch, syncs."""
    source = ConditionalSyntheticGradient(num_classes=10)
    return PROBLEM.config(source, device=device, sync=Bernoulli(0.3))


def train(world: World) -> tuple[float, list[str]]:
    """The training loss, and the kinds of the edges."""
    over_nccl = replace(config("cuda"), executor="distributed", transport=("nccl",))
    summary = run_rank(prepare(over_nccl, num_ranks=world.world_size), Control(world), folder=None)
    return summary["train_loss"], [edge["kind"] for edge in summary["edges"]]


def test_run_over_nccl_edges_trains_as_one_process_does(ranks: Ranks) -> None:
    expected = run_simulated(prepare(config("cpu"))).summary["train_loss"]
    for loss, kinds in ranks.run(train, world_size=2):
        assert loss == pytest.approx(expected, rel=1e-2)
        assert kinds == ["in process"] * 2 + ["nccl"] * 2 + ["in process"] * 2
