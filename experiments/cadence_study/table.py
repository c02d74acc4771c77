"""Do the results say what the README says they say?

Rebuilds the README's tables and the picture from results.jsonl; with --check only compares, and names what is wrong.

    python -m experiments.cadence_study.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean

import tyro

from experiments.cadence_study.arms import ARMS, UNIFORM
from experiments.cadence_study.config import COMPARISONS, NETS, RATES, TASKS
from experiments.cadence_study.differences import (
    Finals,
    beyond_batches,
    differences,
    gains,
    interval,
    over_tasks,
    period_of,
)
from experiments.cadence_study.picture import PICTURE, draw
from experiments.cadence_study.plan import FULL, num_planned, round_of
from experiments.cadence_study.results import FOLDER, Cell, Run, finalists, finals, read_runs
from experiments.cadence_study.screening import (
    NOT_RUN,
    arms_table,
    choices_table,
    confidence_table,
    screening_table,
    titles,
)
from experiments.cadence_study.verdict import verdicts
from experiments.machine import described
from experiments.readme import rebuild, report
from experiments.records import grouped
from experiments.spread import spread

__all__ = ["main", "render"]


def render(runs: Collection[Run]) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    own = finals(runs)
    parts = {"verdict": verdicts(runs), "arms": _joined(arms_table())}
    for comparison in COMPARISONS:
        for optimizer in RATES:
            arms = finalists(runs, comparison, optimizer)
            parts[f"{comparison} {optimizer}"] = _joined(_finals(own, comparison, optimizer, arms))
        parts[f"screening {comparison}"] = _joined(screening_table(runs, comparison))
        parts[f"chosen {comparison}"] = _joined(choices_table(runs, comparison))
    parts["loss"] = _joined(_losses(runs, own))
    parts["confidence"] = _joined(confidence_table(runs))
    parts["large"] = _joined(_large(runs))
    parts["plan"] = _joined(_plan(runs))
    return parts | {"machine": "\n".join(described(run.machine for run in runs)) or NOT_RUN}


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables and the picture from the results.

    Args:
        check: change nothing; end with 1 and say what is wrong if the README is not what the results give.
        folder: where README.md and results.jsonl lie.
    """
    runs = read_runs(folder)
    wrong = rebuild(folder / "README.md", render(runs), check=check)
    if runs and not check:
        draw(runs, folder / PICTURE)
    return report(wrong)


def _finals(own: Finals, comparison: str, optimizer: str, arms: Sequence[str]) -> Iterator[str]:
    yield f"| | steps per update | {titles()} | all | over uniform with as many updates |"
    yield "|---|---:|" + "---:|" * (len(TASKS) + 2)
    yield f"| {ARMS[UNIFORM].title}: test accuracy, % | 1 | {' | '.join(_accuracies(own, comparison, optimizer))} | |"
    for arm in arms:
        if arm != UNIFORM:
            cells = [Cell(comparison, task, optimizer, arm) for task in TASKS]
            each = [_diverged(own.get(cell, {}).values()) or _gain(own, cell) for cell in cells]
            over_all = gains(own, comparison, optimizer, arm) or NOT_RUN
            beyond = (beyond_batches(own, comparison, optimizer, arm) or NOT_RUN) if ARMS[arm].divide else ""
            yield f"| {ARMS[arm].title} | {_periods(own, cells)} | {' | '.join(each)} | {over_all} | {beyond} |"
    if not arms:
        yield f"| the other finalists | | {' | '.join([NOT_RUN] * (len(TASKS) + 2))} |"


def _gain(own: Finals, cell: Cell) -> str:
    found = differences(own, cell, cell._replace(arm=UNIFORM))
    return str(interval(list(found.values())) or NOT_RUN)


def _accuracies(own: Finals, comparison: str, optimizer: str) -> Iterator[str]:
    """Of the uniform arm, on each task and over all."""
    found = []
    for task in TASKS:
        runs = own.get(Cell(comparison, task, optimizer, UNIFORM), {})
        found.append({seed: 100 * (run.test_accuracy or 0.0) for seed, run in runs.items()})
        yield _diverged(runs.values()) or _spread(list(found[-1].values()))
    yield _spread(over_tasks(found))


def _periods(own: Finals, cells: Iterable[Cell]) -> str:
    """Of an arm on each network: the mean over the data."""
    periods = [(cell.task.net, period_of(own, cell)) for cell in cells]
    texts = []
    for net, title in NETS.items():
        known = [period for each, period in periods if each == net and period is not None]
        texts.append(f"{title} {mean(known):.2f}" if known else f"{title} {NOT_RUN}")
    return ", ".join(texts)


def _losses(runs: Collection[Run], own: Finals) -> Iterator[str]:
    """Training loss of the finals, the mean over the seeds."""
    yield f"| | {titles()} |"
    yield "|---|" + "---:|" * len(TASKS)
    for comparison, title in COMPARISONS.items():
        for optimizer in RATES:
            for arm in finalists(runs, comparison, optimizer) or [UNIFORM]:
                cells = [own.get(Cell(comparison, task, optimizer, arm), {}).values() for task in TASKS]
                texts = [_diverged(c) or _mean([r.train_loss for r in c if r.train_loss is not None]) for c in cells]
                yield f"| {title}, {optimizer}, {ARMS[arm].title} | {' | '.join(texts)} |"


def _large(runs: Collection[Run]) -> Iterator[str]:
    yield f"| | {titles()} |"
    yield "|---|" + "---:|" * len(TASKS)
    for optimizer in RATES:
        for arm in finalists(runs, "samples", optimizer) or [UNIFORM]:
            texts = [_spread_of(runs, Cell("samples", task, optimizer, arm)) for task in TASKS]
            yield f"| {optimizer}, {ARMS[arm].title} | {' | '.join(texts)} |"


def _spread_of(runs: Collection[Run], cell: Cell) -> str:
    own = [run for run in runs if run.size == "large" and run.cell == cell]
    return _diverged(own) or _spread([100 * (run.test_accuracy or 0.0) for run in own])


def _plan(runs: Collection[Run]) -> Iterator[str]:
    yield "| round | runs | made | minutes of one core |"
    yield "|---|---:|---:|---:|"
    made, planned = grouped(runs, round_of), num_planned()
    for name, count in planned.items():
        yield f"| {name} | {count} | {_made(made.get(name, ()))} |"
    small = [run for run in runs if run.size == "small"]
    yield f"| all but {FULL} | {sum(planned.values()) - planned[FULL]} | {_made(small)} |"


def _made(runs: Collection[Run]) -> str:
    return f"{len(runs)} | {sum(run.wall_s for run in runs) / 60:.1f}" if runs else f"{NOT_RUN} | "


def _diverged(runs: Collection[Run]) -> str:
    """Empty if none has."""
    count = sum(run.diverged for run in runs)
    return f"diverged ({count} of {len(runs)})" if count else ""


def _spread(values: Sequence[float]) -> str:
    return spread(values, ".2f") if values else NOT_RUN


def _mean(values: Sequence[float]) -> str:
    return f"{mean(values):.3f}" if values else NOT_RUN


def _joined(lines: Iterable[str]) -> str:
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
