"""What does the simulator say that a run of ours will take?

It is told what the operations cost where nothing is synced, slow or paused, what a message costs in the rare syncs of
another run, how much longer the slow stage sleeps, and when the paused one does; it has to find out the rest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.sleeping_stages.cases import BACKWARD_S, FORWARD_S, Case, config
from experiments.sleeping_stages.steady import around_pause, steady
from experiments.spans import Span, read_trace, start_s
from pipeline import CostModel, prepare, run_simulated

__all__ = ["predict"]


def predict(case: Case, num_ranks: int, operations_ms: Mapping[str, float], *, message_ms: float) -> dict[str, Any]:
    """The slowest stage's time per microbatch, and what each stage does around a pause.

    Args:
        case: one of ours.
        num_ranks: stages, one per rank.
        operations_ms: what F, B, L and U cost a stage that is not slowed.
        message_ms: a message's way from one rank to the next.
    """
    further = [case.factor(rank, num_ranks) - 1.0 for rank in range(num_ranks)]
    costs = CostModel(
        forward_s=tuple(operations_ms["F"] / 1000.0 + FORWARD_S * more for more in further),
        backward_s=tuple(operations_ms["B"] / 1000.0 + BACKWARD_S * more for more in further),
        learn_s=operations_ms["L"] / 1000.0,
        update_s=operations_ms["U"] / 1000.0,
        message_s=message_ms / 1000.0,
    )
    ranks = _simulated(case, num_ranks, costs)
    pauses = [(rank, case.pause_s(rank, num_ranks)) for rank in range(num_ranks)]
    pauses = [(rank, seconds) for rank, seconds in pauses if seconds]
    if pauses:
        begun = tuple((rank, start_s(ranks[rank], case.pause_at), seconds) for rank, seconds in pauses)
        ranks = _simulated(case, num_ranks, replace(costs, pauses=begun))
    return {
        "period_ms": max(steady(spans, case)["period_ms"] for spans in ranks),
        "pause": around_pause(ranks, case) if pauses else [],
    }


def _simulated(case: Case, num_ranks: int, costs: CostModel) -> list[list[Span]]:
    with tempfile.TemporaryDirectory() as folder:
        run_simulated(prepare(config(case, num_ranks, costs=costs)), folder=Path(folder))
        return [read_trace(Path(folder), stage) for stage in range(num_ranks)]
