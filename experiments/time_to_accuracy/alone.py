"""How is the same network trained by a plain PyTorch loop in one process, and how long does that take?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from experiments.time_to_accuracy.curve import Point
from pipeline.configuration.prepared import Prepared
from pipeline.data.feed import Batch
from pipeline.executors.session import threads
from pipeline.randomness.keyed import undisturbed

__all__ = ["train_alone"]


def train_alone(
    prepared: Prepared, *, batch_size: int, on_step: Callable[[int], None] = lambda step: None
) -> list[Point]:
    """Train on the same batches from the same initial weights as the stages would; `on_step` hears of evaluations."""
    config = prepared.config
    assert prepared.train is not None
    model = nn.Sequential(*prepared.cut.stages)
    optimizer = config.optimizer(model.parameters())
    batches = prepared.train.start(0)
    points, train_s = [], 0.0
    with threads(config.num_threads), undisturbed():
        for begin in range(0, config.steps, config.evaluate_every):
            end = min(begin + config.evaluate_every, config.steps)
            started_s = time.perf_counter()
            for _ in range(begin, end):
                x, target = next(batches)
                optimizer.zero_grad(set_to_none=True)
                config.loss(model(x), target).backward()
                optimizer.step()
            train_s += time.perf_counter() - started_s
            points.append(Point(end * batch_size, train_s, _accuracy(model, prepared.test)))
            on_step(end)
    return points


def _accuracy(model: nn.Module, test: Sequence[Batch]) -> float:
    model.eval()
    with torch.no_grad():
        num_correct = sum(int((model(x).argmax(dim=1) == target).sum()) for x, target in test)
    model.train()
    return num_correct / sum(len(x) for x, _ in test)
