"""What do the schedules of torch.distributed.pipelining do with the same stages?

Static metadata is given, so that nothing is probed; each rank takes its steps from what reaches it, without barriers
between updates.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import pipelining

from experiments.sleeping_stages.cases import BATCH_SIZE, WIDTH, Case, batches, sleeper
from experiments.sleeping_stages.sleeper import SleepingStage
from experiments.spans import Span
from pipeline.transports.control import Control

__all__ = ["run_schedule"]


def run_schedule(case: Case, control: Control) -> list[Span]:
    """Run the case's updates on this rank; returns what its stages slept, in order."""
    world = control.world
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore("groups", control.client()),
        rank=world.rank,
        world_size=world.world_size,
        timeout=timedelta(minutes=5),
    )
    try:
        modules = _train(case, rank=world.rank, world_size=world.world_size)
        control.wait_everyone("trained")
    finally:
        dist.destroy_process_group()
    return sorted((span for module in modules for span in module.spans), key=lambda span: span.start_s)


def _train(case: Case, *, rank: int, world_size: int) -> list[SleepingStage]:
    num_stages = world_size * case.chunks
    indices = _stages_of(case, rank=rank, world_size=world_size)
    modules = [sleeper(case, rank=rank, num_ranks=world_size, chunk=chunk) for chunk in range(case.chunks)]
    stages = [
        pipelining.PipelineStage(
            module,
            index,
            num_stages,
            torch.device("cpu"),
            input_args=torch.empty(BATCH_SIZE, WIDTH).requires_grad_(index > 0),
            output_args=torch.empty(BATCH_SIZE, WIDTH).requires_grad_(),
        )
        for module, index in zip(modules, indices, strict=True)
    ]
    make: Any = getattr(pipelining, case.schedule)
    schedule = make(stages[0] if case.chunks == 1 else stages, n_microbatches=case.per_update, loss_fn=F.cross_entropy)
    optimizer = torch.optim.Adam([parameter for module in modules for parameter in module.parameters()])
    microbatches = batches().start(0)
    for _ in range(case.num_updates):
        pairs = [next(microbatches) for _ in range(case.per_update)]
        x, target = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
        _step(schedule, x if 0 in indices else None, target if num_stages - 1 in indices else None)
        optimizer.step()
        optimizer.zero_grad()
    return modules


def _stages_of(case: Case, *, rank: int, world_size: int) -> list[int]:
    """The stages of a rank: (r, r + W), or in a V (r, 2W - 1 - r)."""
    if case.schedule == "ScheduleZBVZeroBubble":
        return [rank, 2 * world_size - 1 - rank]
    return [rank + chunk * world_size for chunk in range(case.chunks)]


def _step(schedule: Any, x: Tensor | None, target: Tensor | None) -> None:
    losses: list[Tensor] = []
    arguments = () if x is None else (x,)
    if target is None:
        schedule.step(*arguments)
    else:
        schedule.step(*arguments, target=target, losses=losses)
