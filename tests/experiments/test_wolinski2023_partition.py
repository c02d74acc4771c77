"""Does every arm take the steps it says, does a trace leave training alone, and do the tables say what the runs say?"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from dni import ParameterPartition, Summary, diagonal_rates
from experiments.wolinski2023_partition import config as plan
from experiments.wolinski2023_partition import training, tracing
from experiments.wolinski2023_partition.config import ADAM, ARMS, FULL, SGD, TASKS, Setting, Split, Task, rule_of
from experiments.wolinski2023_partition.networks import begun, lenet, mlp, vgg11
from experiments.wolinski2023_partition.tracing import TraceJob, coupling_of, trace
from experiments.wolinski2023_partition.training import Job, train


def small_task(**more: object) -> Task:
    tries = {arm: TASKS[0].tries[arm] for arm in TASKS[0].tries}
    task = Task(
        name="small",
        network=lambda: mlp((12, 6, 5, 10), nn.Tanh),
        gain=1.0,
        data="MNIST",
        steps=3,
        seeds=(0, 1),
        summary_size=16,
        tries=tries,
        traced=(SGD,),
        trace_every=2,
        batch_size=8,
        period=2,
        steps_per_point=2,
    )
    return replace(task, **more)  # type: ignore[arg-type]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Task:
    """A network of 3 layers on random samples."""
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 12, generator=drawn), torch.randint(10, (64,), generator=drawn)
    samples = Split(train_x=x, train_y=y, held_out_x=x, held_out_y=y, test_x=x, test_y=y)
    task = small_task()
    for module in (training, tracing):
        monkeypatch.setattr(module, "split", lambda task: samples)
        monkeypatch.setattr(module, "task_named", lambda name: task)
    return task


@pytest.mark.experiment
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_learns_is_timed_and_says_what_it_found(small: Task, arm: str) -> None:
    setting = small.tries[arm][0]
    run = train(Job(task="small", arm=arm, setting=setting, seed=0))
    assert (run.num_steps, [point.step for point in run.points], run.diverged) == (3, [0, 2, 3], False)
    assert run.points[-1].train_loss != run.points[0].train_loss and 0 < run.cpu_s
    of_curvature = ARMS[arm].partition is not None
    assert (run.num_summaries + run.num_unsolved, len(run.found)) == ((2, 2) if of_curvature else (0, 0))
    assert (run.summary_s > 0) == of_curvature


@pytest.mark.experiment
def test_trace_has_both_directions(small: Task) -> None:
    gradient, optimiser = trace(TraceJob(task="small", arm=SGD, setting=Setting(rate=0.1)))
    assert [look.step for look in gradient.looks] == [0, 2]
