"""What does the simulator say that a run of ours will take?

It is told what the operations cost where nothing is synced, slow or paused, and has to find out the rest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.sleeping_stages.cases import Case, config
from experiments.sleeping_stages.steady import steady
from experiments.spans import read_trace
from pipeline import CostModel, prepare, run_simulated

__all__ = ["predict"]

MESSAGE_S = 0.0003
"""A message's way between two ranks of one machine (experiments/message_cost, rounded)."""


def predict(case: Case, num_ranks: int, operations_ms: Mapping[str, float]) -> dict[str, Any] | None:
    """The slowest stage's time per microbatch, and what each stage does around a pause.

    Args:
        case: one of ours.
        num_ranks: stages, one per rank.
        operations_ms: what F, B, L and U cost a stage that is not slowed.
    """
    if case.group != "equal":
        return None
    costs = CostModel(
        forward_s=operations_ms["F"] / 1000.0,
        backward_s=operations_ms["B"] / 1000.0,
        learn_s=operations_ms["L"] / 1000.0,
        update_s=operations_ms["U"] / 1000.0,
        message_s=MESSAGE_S,
    )
    with tempfile.TemporaryDirectory() as folder:
        run_simulated(prepare(config(case, num_ranks, costs=costs)), folder=Path(folder))
        ranks = [read_trace(Path(folder), stage) for stage in range(num_ranks)]
    return {"period_ms": max(steady(spans, case)["period_ms"] for spans in ranks)}
