"""How far is the curvature that a stage sees from that of the true loss, along the step that the stage would take?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dni import ParameterPartition, Signal, StageBatch, Summary, implied_loss, summarise_chain, summarise_stage

__all__ = ["compare"]


def compare(
    stages: Sequence[nn.Module], sources: Sequence[Any], loss: Any, x: Tensor, target: Tensor
) -> dict[str, list[Any]]:
    """Slope and curvature along the gradient that each stage uses: of the loss that it sees, and of the true one.

    Args:
        stages: as trained.
        sources: theirs, the last of them the loss.
        loss: of (output, target), the mean over samples.
        x: (N, *F).
        target: (N,).

    Returns:
        `seen_gradient` and `seen_hessian`, one number per stage; `true_gradient` likewise, and `true_hessian` between
        every two of them.
    """
    seen, steps, h = [], {}, x
    for index, (stage, source) in enumerate(zip(stages, sources, strict=True)):
        signal = Signal(step=0, target=target)
        own = dict(stage.named_parameters())
        y = stage(h)
        slope = implied_loss(source, y, signal) / len(x)
        step = dict(zip(own, torch.autograd.grad(slope, list(own.values())), strict=True))
        partition = ParameterPartition.as_one({name: tuple(p.shape) for name, p in own.items()})
        seen.append(summarise_stage(stage, source, [StageBatch(x=h, signal=signal)], step, partition))
        steps |= {f"{index}.{name}": each for name, each in step.items()}
        h = y.detach()
    true = _across(stages, loss, x, target, steps)
    return {
        "seen_gradient": [float(each.gradient) for each in seen],
        "seen_hessian": [float(each.hessian) for each in seen],
        "true_gradient": true.gradient.tolist(),
        "true_hessian": true.hessian.tolist(),
    }


def _across(stages: Sequence[nn.Module], loss: Any, x: Tensor, target: Tensor, steps: dict[str, Tensor]) -> Summary:
    network = nn.Sequential(*stages)
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    partition = ParameterPartition.by_name(shapes, {f"stage {index}": [str(index)] for index in range(len(stages))})
    return summarise_chain(network, loss, x, target, steps, partition)
