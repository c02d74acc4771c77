"""Does a run do the same on a GPU as on the CPU, up to rounding?"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dni import (
    Bernoulli,
    ConditionalSyntheticGradient,
    DirectFeedbackAlignment,
    Kickback,
    MixedGradient,
    SobolevCritic,
)
from pipeline import prepare, run_simulated, run_threaded
from pipeline.executors.distributed import run_rank
from pipeline.transports.control import Control, World
from tests.reference import Problem, assert_bit_equal, summed_loss_loop
from tests.spawn import Ranks

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

PROBLEM = Problem(num_stages=4, batch_norm=False, batch_size=256, steps=8)


def test_simulated_run_on_a_gpu_is_close_to_the_loop_on_the_cpu() -> None:
    found = run_simulated(prepare(PROBLEM.config(device="cuda"))).export()
    for name, expected in summed_loss_loop(PROBLEM).items():
        torch.testing.assert_close(found[name].cpu(), expected, rtol=1e-3, atol=1e-4)


WAYS = {
    "true gradients": {},
    "synthetic gradients, syncs, dropout": {
        "source": ConditionalSyntheticGradient(num_classes=10),
        "sync": Bernoulli(0.3),
        "delay": (3,),
    },
    "errors at the output": {
        "source": (DirectFeedbackAlignment(), SobolevCritic(), MixedGradient(Kickback())),
        "delay": (3,),
    },
    "late gradients, dropout": {"stash": "recompute", "delay": (4,)},
}


@pytest.mark.parametrize("way", WAYS)
def test_threads_with_a_stream_each_equal_one_thread_on_the_same_gpu_bit_for_bit(way: str) -> None:
    problem = replace(PROBLEM, dropout=0.2 if "dropout" in way else 0.0, steps=24)
    devices = {"device": "cuda"}
    expected = run_simulated(prepare(problem.config(**devices, **WAYS[way]))).export()
    if torch.cuda.device_count() > 1:
        pytest.skip("the stages would be on several GPUs")
    for _ in range(3):
        found = run_threaded(prepare(problem.config(**devices, executor="threads", **WAYS[way]))).export()
        assert_bit_equal(found, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_threads_on_several_gpus_equal_the_loop_on_one_up_to_rounding() -> None:
    found = run_threaded(prepare(PROBLEM.config(device="cuda", executor="threads"))).export()
    assert {value.device.index for value in found.values()} == set(range(min(4, torch.cuda.device_count())))
    for name, expected in summed_loss_loop(PROBLEM).items():
        torch.testing.assert_close(found[name].cpu(), expected, rtol=1e-3, atol=1e-4)


def train_on_gpu(world: World) -> float:
    """Synthetic gradients between processes that share the GPU; the training loss."""
    source = ConditionalSyntheticGradient(num_classes=10)
    config = PROBLEM.config(source, device="cuda", sync=Bernoulli(0.3))
    summary = run_rank(prepare(config, num_ranks=world.world_size), Control(world), folder=None)
    return float(summary["train_loss"])


@pytest.mark.distributed
def test_ranks_that_share_a_gpu_train_as_one_process_does(ranks: Ranks) -> None:
    config = PROBLEM.config(ConditionalSyntheticGradient(num_classes=10), device="cpu", sync=Bernoulli(0.3))
    expected = run_simulated(prepare(config)).summary["train_loss"]
    for loss in ranks.run(train_on_gpu, world_size=2):
        assert loss == pytest.approx(expected, rel=1e-2)
