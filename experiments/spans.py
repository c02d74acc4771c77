"""What did a rank do, and when? The common form in which benchmarks read runs of ours and of others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Span", "operations_ms", "read_trace", "start_s"]


class Span(NamedTuple):
    """One operation: `F`, `B`, `L`, `U`, `R` as in a trace; `W`, where the backward to the weights stands apart."""

    operation: str
    step: int
    start_s: float
    end_s: float
    chunk: int = 0
    """Which of the rank's stages; they are counted from 0 on each rank."""


def read_trace(folder: Path, stage: int) -> list[Span]:
    """The operations of a stage of ours, from its run's folder, in order."""
    lines = map(json.loads, (folder / "trace" / f"stage-{stage}.jsonl").read_text().splitlines())
    spans = [
        Span(line["event"][len(str(stage))], line["step"], line["start_s"], line["end_s"])
        for line in lines
        if line["end_s"] > line["start_s"]  # marks take no time
    ]
    return sorted(spans, key=lambda span: span.start_s)


def start_s(spans: Iterable[Span], step: int) -> float:
    """When a rank began with a microbatch."""
    return next(s.start_s for s in spans if s.operation == "F" and s.step == step and s.chunk == 0)


def operations_ms(spans: Sequence[Span], first: int, last: int) -> dict[str, float]:
    """Time in each kind of operation per microbatch, between the starts of the microbatches `first` and `last`."""
    begin_s, end_s = start_s(spans, first), start_s(spans, last)
    totals_s: dict[str, float] = {}
    for span in spans:
        if begin_s <= span.start_s < end_s:
            totals_s[span.operation] = totals_s.get(span.operation, 0.0) + (span.end_s - span.start_s)
    return {name: round(1000.0 * total_s / (last - first), 4) for name, total_s in sorted(totals_s.items())}
