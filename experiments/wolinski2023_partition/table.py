"""Do the results say what the README says they say?

Rebuilds the README's tables and the pictures from results.jsonl and traces.jsonl; with --check only compares, and names
what is wrong.

    python -m experiments.wolinski2023_partition.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean

import tyro

from experiments.expected import Expected, read_expected
from experiments.machine import described
from experiments.readme import rebuild, report
from experiments.spread import spread
from experiments.wolinski2023_partition import tables
from experiments.wolinski2023_partition.config import ADAM, FIRST_ORDER, FULL, SGD, Task, task_named
from experiments.wolinski2023_partition.picture import draw_coupling, draw_courses, draw_eta
from experiments.wolinski2023_partition.results import (
    FOLDER,
    Run,
    Trace,
    at_best,
    best_point,
    counted,
    read_runs,
    read_traces,
)

__all__ = ["failures", "main", "measured", "render"]

_CLAIMED = {"mlp": "MLP, MNIST", "lenet": "LeNet, CIFAR-10"}
"""Tasks with several seeds, by their name in expected.csv."""


def render(runs: Sequence[Run], traces: Sequence[Trace]) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    best = at_best(runs, traces)
    return {
        "equal steps": tables.equal_steps(runs),
        "equal time": tables.equal_time(runs),
        "expected": _expected_table(read_expected(FOLDER / "expected.csv"), measured(runs, traces)),
        "eta": tables.eta(best),
        "one rate": tables.one_rate(runs, traces),
        "steps ahead": tables.steps_ahead(best),
        "coupling": tables.coupling(best),
        "rates": tables.found_rates(runs),
        "tries": tables.tries(runs),
        "machine": "\n".join(described([*(run.machine for run in runs), *(trace.machine for trace in traces)]))
        or "not run",
    }


def measured(runs: Sequence[Run], traces: Sequence[Trace]) -> dict[str, list[float]]:
    """What expected.csv is about: a value for each seed, by row."""
    found: dict[str, list[float]] = {}
    for short, name in _CLAIMED.items():
        task = task_named(name)
        for arm in (ADAM, SGD, "diagonal", "layer", "one"):
            found[f"{short}_full_over_{arm.lower()}"] = _over(runs, task, arm, partial(_accuracy, step=task.steps))
        for arm in FIRST_ORDER:
            found[f"{short}_full_over_{arm.lower()}_in_its_time"] = _over(runs, task, arm, _accuracy, timed=True)
        along = [
            trace
            for trace in at_best(runs, traces)
            if (trace.task, trace.arm, trace.direction) == (name, SGD, "optimiser")
        ]
        found[f"{short}_coupling"] = [
            mean(value for values in tables.shares_by_distance(trace) for value in values) for trace in along
        ]
    return found


def failures(expected: Mapping[str, Expected], found: Mapping[str, Sequence[float]]) -> list[str]:
    """What of the expectations does not hold, row by row."""
    wrong = []
    for row in expected.values():
        values = found[row.row]
        if len(values) < row.seeds:
            wrong.append(f"{row.row}: needs {row.seeds} seeds, has {len(values)}; run it")
        elif values:
            wrong += row.misses(mean(values), digits=2)
    return wrong


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables and the pictures from the results.

    Args:
        check: change nothing; end with 1 and say what is wrong if the README or a tolerance is not met.
        folder: where README.md, expected.csv, results.jsonl and traces.jsonl lie.
    """
    runs, traces = read_runs(folder / "results.jsonl"), read_traces(folder / "traces.jsonl")
    wrong = rebuild(folder / "README.md", render(runs, traces), check=check)
    if check:
        wrong += failures(read_expected(folder / "expected.csv"), measured(runs, traces)) if runs else []
    elif runs:
        draw_courses(runs, folder / "courses.png")
        draw_eta(at_best(runs, traces), folder / "eta.png")
        draw_coupling(at_best(runs, traces), folder / "coupling.png")
    return report(wrong)


def _accuracy(run: Run, *, step: int | None = None) -> float:
    """Test accuracy, in %, where the run was most accurate on held-out samples up to a step; None: to its end."""
    return 100 * best_point(run.points if step is None else run.by_step(step)).test_accuracy


def _over(
    runs: Sequence[Run], task: Task, arm: str, accuracy: Callable[[Run], float], *, timed: bool = False
) -> list[float]:
    """Points of the full method over an arm, of the same seed."""
    own = {run.seed: run for run in counted(runs, task, FULL) if not run.diverged}
    others = [run for run in counted(runs, task, arm, timed=timed) if not run.diverged]
    return [accuracy(own[other.seed]) - accuracy(other) for other in others if other.seed in own]


def _expected_table(expected: Mapping[str, Expected], found: Mapping[str, Sequence[float]]) -> str:
    lines = ["| row | what | the claim | ours | seeds |", "|---|---|---|---:|---:|"]
    for row in expected.values():
        values = found[row.row]
        ours = spread(values, "+.2f") if values else "not run"
        lines.append(f"| {row.row} | {row.metric} | {row.source} | {ours} | {len(values)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
