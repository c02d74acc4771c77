"""How fast is the same work in plain PyTorch: stages that tell each other nothing, 1F1B, and one process?

Each function trains on this rank for `case.steps` microbatches and returns the milliseconds per microbatch between the
starts of the first measured one and of the first one after them.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from dni import Signal
from experiments.real_stages.cases import BATCH_SIZE, NUM_CLASSES, Case, batches, network, optimizer, source
from pipeline import partition
from pipeline.transports.control import Control

__all__ = ["run_loop"]


def run_loop(case: Case, control: Control, *, at: tuple[str, ...], width: int) -> float:
    """Run a case that is not ours on this rank; 0.0 from a rank that has no part in it."""
    rank = control.world.rank
    torch.manual_seed(0)
    model = network(width, width)
    stages = partition(model, at=at).stages
    control.wait_everyone("start")
    match case.kind:
        case "independent":
            return _timed(case, (_lower, _upper)[rank](case, stages[rank], width))
        case "alone":
            return _timed(case, _upper(case, stages[1], width)) if rank == 1 else 0.0
        case "one process":
            return _timed(case, _whole(model, width)) if rank == 0 else 0.0
    return _timed(case, _scheduled(case, stages[rank], control, width))


def _timed(case: Case, training: Generator[None]) -> float:
    """`training` yields before each update."""
    started_s: list[float] = []
    with closing(training):
        while len(started_s) * case.per_update <= case.steps:
            next(training)
            started_s.append(time.perf_counter())
    first, last = case.first // case.per_update, case.last // case.per_update
    return (started_s[last] - started_s[first]) * 1000.0 / case.microbatches


def _lower(case: Case, module: nn.Module, width: int) -> Generator[None]:
    """Stage 0 with its source: it takes its own data, and learns from a gradient that is always the same."""
    own = optimizer(module.parameters())
    synthetic = source(case.synthesizer)
    microbatches = batches(width).start(0)
    true = torch.randn(BATCH_SIZE, width) * 1e-3
    step = 0
    while True:
        yield
        x, target = next(microbatches)
        h = module(x)
        detached = h.detach()
        if step == 0:
            synthetic.build(detached, generator=torch.Generator().manual_seed(0))
        estimate = synthetic.estimate(detached, Signal(step=step, target=target))
        assert isinstance(estimate, Tensor)
        h.backward(estimate / BATCH_SIZE)
        own.step()
        own.zero_grad()
        synthetic.learn(detached, Signal(step=step, target=target, gradient=true))
        step += 1


def _upper(case: Case, module: nn.Module, width: int) -> Generator[None]:
    """Stage 1 with the loss: its input is always the same, and it makes the gradient for stage 0 nevertheless."""
    own = optimizer(module.parameters())
    microbatches = batches(width).start(0)
    received = torch.randn(BATCH_SIZE, width).relu()
    while True:
        yield
        _, target = next(microbatches)
        F.cross_entropy(module(received.detach().requires_grad_()), target).backward()
        own.step()
        own.zero_grad()


def _whole(model: nn.Module, width: int) -> Generator[None]:
    own = optimizer(model.parameters())
    for x, target in batches(width).start(0):
        yield
        F.cross_entropy(model(x), target).backward()
        own.step()
        own.zero_grad()


def _scheduled(case: Case, module: nn.Module, control: Control, width: int) -> Generator[None]:
    """This rank's part in 1F1B, with static metadata."""
    rank = control.world.rank
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore("groups", control.client()),
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=5),
    )
    stage = PipelineStage(
        module,
        rank,
        2,
        torch.device("cpu"),
        input_args=torch.empty(BATCH_SIZE, width).requires_grad_(rank > 0),
        output_args=torch.empty(BATCH_SIZE, NUM_CLASSES if rank else width).requires_grad_(),
    )
    schedule = Schedule1F1B(stage, n_microbatches=case.per_update, loss_fn=F.cross_entropy)
    own = optimizer(module.parameters())
    microbatches = batches(width).start(0)
    try:
        while True:
            yield
            pairs = [next(microbatches) for _ in range(case.per_update)]
            x, target = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
            if rank == 0:
                schedule.step(x)
            else:
                schedule.step(target=target, losses=[])
            own.step()
            own.zero_grad()
    finally:
        control.wait_everyone("trained")
        dist.destroy_process_group()
