"""Which arms and which questions are there?"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.changing_structure.arm import Arm, Family
from experiments.changing_structure.growing import GROWING, GROWING_ARMS
from experiments.changing_structure.kernels import KERNEL_ARMS, KERNELS
from experiments.changing_structure.pruning import PRUNING, PRUNING_ARMS
from experiments.changing_structure.shocks import SHOCK_ARMS, SHOCKS
from experiments.changing_structure.sites import Task
from experiments.changing_structure.sparsity import SPARSE, SPARSE_ARMS

__all__ = ["ARMS", "FAMILIES", "LENGTHS", "tasks_of"]

ARMS: Mapping[str, Arm] = {**PRUNING_ARMS, **GROWING_ARMS, **SPARSE_ARMS, **SHOCK_ARMS, **KERNEL_ARMS}
FAMILIES: Mapping[str, Family] = {
    "prune": PRUNING,
    "grow": GROWING,
    "sparse": SPARSE,
    "shock": SHOCKS,
    "kernels": KERNELS,
}
"""In the order in which they are run: what is worth most first, what takes longest last."""
LENGTHS: Mapping[str, str] = {"samples": "equal samples", "flops": "equal training FLOPs"}


def tasks_of(arm: str) -> tuple[Task, ...]:
    """Of the questions that it helps to answer."""
    return next(family.tasks for family in FAMILIES.values() if arm in family.arms)
