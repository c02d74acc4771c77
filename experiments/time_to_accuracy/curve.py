"""When, in seconds of training, had a run reached which accuracy?

Evaluations interrupt a run: it drains, evaluates and goes on. So the steps between two evaluations are a stretch, whose
time goes from the first operation of one of its steps on any stage to the last one; the times of the stretches add up.
Start-up and evaluations fall between them. Filling and draining the pipeline fall into them.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.spans import Span, read_trace

__all__ = ["Point", "read_accuracies", "read_curve", "training_s"]


class Point(NamedTuple):
    """One evaluation."""

    samples: int
    """Trained on before it."""
    train_s: float
    """Spent in training before it."""
    accuracy: float
    """A fraction of the samples evaluated on."""


def read_curve(folder: Path, *, num_stages: int, batch_size: int) -> list[Point]:
    """The evaluations of a run of stages, from its folder."""
    accuracies = read_accuracies(folder, last_stage=num_stages - 1)
    steps = sorted(accuracies)
    times_s = training_s((span for stage in range(num_stages) for span in read_trace(folder, stage)), steps)
    return [Point(step * batch_size, time_s, accuracies[step]) for step, time_s in zip(steps, times_s, strict=True)]


def training_s(spans: Iterable[Span], evaluated_at: Sequence[int]) -> list[float]:
    """Seconds of training before each evaluation.

    Args:
        spans: the operations of all stages, in any order.
        evaluated_at: the steps before which the network was evaluated, ascending; the last one ends the run.

    Raises:
        ValueError: a stretch has no operation.
    """
    begins_s = [float("inf")] * len(evaluated_at)
    ends_s = [float("-inf")] * len(evaluated_at)
    for span in spans:
        stretch = bisect.bisect_right(evaluated_at, span.step)
        begins_s[stretch] = min(begins_s[stretch], span.start_s)
        ends_s[stretch] = max(ends_s[stretch], span.end_s)
    times_s, total_s = [], 0.0
    for step, begin_s, end_s in zip(evaluated_at, begins_s, ends_s, strict=True):
        if end_s < begin_s:
            raise ValueError(f"no stage did anything in the stretch before the evaluation at step {step}.")
        total_s += end_s - begin_s
        times_s.append(total_s)
    return times_s


def read_accuracies(folder: Path, *, last_stage: int) -> Mapping[int, float]:
    """Test accuracy by the number of steps before the evaluation."""
    with (folder / "metrics" / f"stage-{last_stage}.jsonl").open() as file:
        lines = list(map(json.loads, file))
    return {line["step"]: line["test_accuracy"] for line in lines if "test_accuracy" in line}
