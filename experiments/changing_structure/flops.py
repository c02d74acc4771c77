"""What does a run cost, in FLOPs of its forwards, and how many steps do as many FLOPs buy?

Matrix products and convolutions only; a backward costs twice its forward, so forwards are enough for what is relative.
Masks save nothing here: a masked weight is multiplied like any other.
"""

from __future__ import annotations

from functools import cache

import torch

from experiments.changing_structure.arms import ARMS
from experiments.changing_structure.sites import BATCH_SIZE, EPOCHS, Site, Task
from pipeline.configuration.prepared import Prepared
from pipeline.learners.flops import forward_flops

__all__ = ["equal_steps", "sample_flops", "spent"]


def spent(prepared: Prepared) -> tuple[float, float]:
    """FLOPs of the forwards of a whole run, as its plan foresees them, and of a forward of one sample in the end."""
    now = {plan.index: plan.forward_flops / BATCH_SIZE for plan in prepared.plans}
    steps, total, last = prepared.config.steps, 0.0, 0
    for change in prepared.changes:
        if change.step is not None and change.step < steps - 1:
            total += (change.step + 1 - last) * sum(now.values())
            last = change.step + 1
            now[change.stage] = change.flops[1]
    total += (steps - last) * sum(now.values())
    return total * BATCH_SIZE, sum(now.values())


@cache
def sample_flops(arm: str, task: Task, size: str = "small") -> int:
    """Of a forward of one sample, at the start."""
    site = Site(task=task, size=size, steps=1)
    channels, side = task.image
    return forward_flops(ARMS[arm].network(site), torch.zeros(1, channels, side, side))


def equal_steps(arm: str, dearest: str, task: Task, size: str = "small") -> int:
    """The steps in which an arm that becomes `dearest` in the middle, or never, spends what that spends in all."""
    own, most = sample_flops(arm, task, size), sample_flops(dearest, task, size)
    steps = EPOCHS * Site(task=task, size=size, steps=1).sizes.epoch
    changes = bool(ARMS[arm].events(Site(task=task, size=size, steps=steps)))
    return round(steps * most / ((own + most) / 2 if changes else own))
