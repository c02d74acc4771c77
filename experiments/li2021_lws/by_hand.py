"""What do the same steps take in a plain loop, without stages?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.li2021_lws.spent import Step

__all__ = ["by_hand"]


def by_hand(
    network: nn.Sequential, top: Collection[str], full: Sequence[bool], batch: tuple[Tensor, Tensor]
) -> list[Step]:
    """Every step but the last, which only shows when the one before it ended.

    Args:
        network: learns in place, by SGD.
        top: names of the layers that learn at every step.
        full: for each step, whether all layers learn.
        batch: the same at every step.
    """
    others = [p for name, p in network.named_parameters() if name.rpartition(".")[0] not in top]
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    times = []
    for everything in full:
        times.append(_step(network, optimizer, others if not everything else [], batch))
    return [
        Step(
            full=everything,
            forward_ms=1e3 * (forwarded_s - started_s),
            backward_ms=1e3 * (pulled_back_s - forwarded_s),
            update_ms=1e3 * (updated_s - pulled_back_s),
            whole_ms=1e3 * (next_s - started_s),
        )
        for everything, ((started_s, forwarded_s, pulled_back_s, updated_s), (next_s, *_)) in zip(
            full, pairwise(times), strict=False
        )
    ]


def _step(
    network: nn.Module, optimizer: torch.optim.Optimizer, idle: Sequence[nn.Parameter], batch: tuple[Tensor, Tensor]
) -> tuple[float, float, float, float]:
    """When it began, had forwarded, had pulled back, and had updated, in seconds."""
    x, target = batch
    for parameter in idle:
        parameter.requires_grad_(False)
    started_s = perf_counter()
    loss = F.cross_entropy(network(x), target)
    forwarded_s = perf_counter()
    loss.backward()  # type: ignore[no-untyped-call]
    pulled_back_s = perf_counter()
    optimizer.step()
    updated_s = perf_counter()
    optimizer.zero_grad(set_to_none=True)
    for parameter in idle:
        parameter.requires_grad_()
    return started_s, forwarded_s, pulled_back_s, updated_s
