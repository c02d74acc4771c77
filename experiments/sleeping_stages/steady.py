"""How fast did a rank go, once the pipeline was full?

All is read from the start and end of each operation, not from the time of a whole run.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from experiments.sleeping_stages.cases import Case
from experiments.spans import Span, operations_ms, start_s

__all__ = ["around_pause", "message_ms", "steady"]


def steady(spans: Sequence[Span], case: Case) -> dict[str, Any]:
    """What a rank did between the start of the first measured microbatch and that of the first one after them.

    Returns:
        period_ms: time per microbatch. own_ms: of it, time in operations. operations: of it, time in each kind.
    """
    elapsed_s = start_s(spans, case.last) - start_s(spans, case.first)
    operations = operations_ms(spans, case.first, case.last)
    return {
        "period_ms": round(elapsed_s * 1000.0 / case.microbatches, 4),
        "own_ms": round(sum(operations.values()), 4),
        "operations": operations,
    }


def message_ms(ranks: Sequence[Sequence[Span]]) -> float | None:
    """How long after the end of a backward the one below begins, where it waits for nothing else; the median.

    That is where true gradients go down without a stop, from rank to rank: nobody has begun something else meanwhile.
    None: they never do.
    """
    backwards = [{span.step: span for span in spans if span.operation == "B"} for spans in ranks]
    ways_ms = []
    for step in set.intersection(*map(set, backwards)):
        chain = [backward[step] for backward in reversed(backwards)]
        pairs = list(pairwise(chain))
        if all(above.end_s <= below.start_s for above, below in pairs):
            ways_ms += [1000.0 * (below.start_s - above.end_s) for above, below in pairs]
    return round(median(ways_ms), 4) if ways_ms else None


def around_pause(ranks: Sequence[Sequence[Span]], case: Case) -> list[dict[str, Any]]:
    """What each rank did while one of them slept.

    Returns:
        Per rank: busy_s and the forwards begun during the pause, and lost_s: how much longer all measured microbatches
        took than they would have, had they all gone like those before the pause.
    """
    paused = next(rank for rank in range(len(ranks)) if case.pause_s(rank, len(ranks)))
    forwards = (span for span in ranks[paused] if span.operation == "F")
    pause = max(forwards, key=lambda span: span.end_s - span.start_s)
    found = []
    for rank, spans in enumerate(ranks):
        within = [s for s in spans if s.end_s > pause.start_s and s.start_s < pause.end_s and rank != paused]
        first_s, undisturbed_s = start_s(spans, case.first), start_s(spans, case.undisturbed)
        expected_s = (undisturbed_s - first_s) * case.microbatches / (case.undisturbed - case.first)
        found.append(
            {
                "busy_s": round(sum(min(s.end_s, pause.end_s) - max(s.start_s, pause.start_s) for s in within), 3),
                "forwards": sum(s.operation == "F" and s.start_s >= pause.start_s for s in within),
                "lost_s": round(start_s(spans, case.last) - first_s - expected_s, 3),
            }
        )
    return found
