"""What did the screening find: how accurate is each arm on held-out samples, with what, and how sure is a layer?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from statistics import mean

from experiments.cadence_study.arms import ARMS, UNIFORM, block_sizes, foreseen_updates, steps_for_updates
from experiments.cadence_study.config import CHOSEN_ON, NETS, RATES, SIZES, TASKS, Task, shapes_of
from experiments.cadence_study.results import (
    Cell,
    Run,
    Setting,
    finalists,
    screened,
    screening,
)

__all__ = ["NOT_RUN", "arms_table", "choices_table", "confidence_table", "screening_table", "titles"]

NOT_RUN = "not run"


def titles() -> str:
    """The columns of the tasks."""
    return " | ".join(task.title for task in TASKS)


def arms_table() -> Iterator[str]:
    """What is known of the arms beforehand."""
    yield "| network | arm | parameters of its blocks | steps per update | steps at equal updates |"
    yield "|---|---|---|---:|---:|"
    steps, updates = SIZES["small"].steps, SIZES["small"].updates
    for net, title in NETS.items():
        shapes = shapes_of(Task(net, CHOSEN_ON))
        for name, arm in ARMS.items():
            sizes = list(block_sizes(name, shapes, steps).values())
            blocks = ", ".join(f"{n:,}" for n in sizes) if len(sizes) < 5 else f"{len(sizes) - 1} quarters, and biases"
            often = foreseen_updates(name, shapes, steps)
            period = "as it decides" if often is None else f"{steps / often:.2f}"
            needed = steps_for_updates(name, shapes, updates)
            yield f"| {title} | {arm.title} | {blocks} | {period} | {needed or 'as it decided'} |"


def screening_table(runs: Collection[Run], comparison: str) -> Iterator[str]:
    """Held-out accuracy at what was chosen, of all arms."""
    yield f"| | {titles()} | mean over uniform | finalist |"
    yield "|---|" + "---:|" * (len(TASKS) + 1) + "---|"
    found = screened(runs)
    for optimizer in RATES:
        chosen = finalists(runs, comparison, optimizer)
        for arm in ARMS:
            own = [found.get(Cell(comparison, task, optimizer, arm)) for task in TASKS]
            uniform = [found.get(Cell(comparison, task, optimizer, UNIFORM)) for task in TASKS]
            gained = [_percent(run) - _percent(base) for run, base in zip(own, uniform, strict=True) if run and base]
            cells = " | ".join(NOT_RUN if run is None else f"{_percent(run):.2f}" for run in own)
            gain = f"{mean(gained):+.2f}" if len(gained) == len(TASKS) else NOT_RUN
            yield f"| {optimizer}, {ARMS[arm].title} | {cells} | {gain} | {'yes' if arm in chosen else ''} |"


def choices_table(runs: Collection[Run], comparison: str) -> Iterator[str]:
    """The rate and the rule of each arm, on each task."""
    yield f"| | {titles()} |"
    yield "|---|" + "---:|" * len(TASKS)
    found, tried = screened(runs), screening(runs)
    for optimizer in RATES:
        for arm in ARMS:
            cells = [Cell(comparison, task, optimizer, arm) for task in TASKS]
            texts = [_choice(found[cell].setting, cell, tried[cell]) if cell in found else NOT_RUN for cell in cells]
            yield f"| {optimizer}, {ARMS[arm].title} | {' | '.join(texts)} |"


def confidence_table(runs: Collection[Run]) -> Iterator[str]:
    """Microbatches in an update of each layer, of the arm that decides by confidence, where samples are equal."""
    yield "| | layer 1 | layer 2 | layer 3 | layer 4 | noise scale at the end, in samples |"
    yield "|---|---:|---:|---:|---:|---|"
    found = screened(runs)
    for optimizer in RATES:
        for task in TASKS:
            run = found.get(Cell("samples", task, optimizer, "by_confidence"))
            blocks = [] if run is None else list(run.blocks.values())
            lengths = [f"{block.length:.2f}" for block in blocks] or [NOT_RUN] * 4
            noise = ["infinite" if b.noise_scale is None else f"{b.noise_scale:,.0f}" for b in blocks]
            yield f"| {optimizer}, {task.title} | {' | '.join(lengths)} | {'; '.join(noise) or NOT_RUN} |"


def _choice(setting: Setting, cell: Cell, tried: Mapping[Setting, Run]) -> str:
    rates, diverged = RATES[cell.optimizer], sum(run.diverged for run in tried.values())
    return (
        f"{setting.rate:g}"
        + ("" if setting.rule == "none" else f" {setting.rule}")
        + (", edge" if setting.rate in (min(rates), max(rates)) else "")
        + (f", {diverged} diverged" if diverged else "")
    )


def _percent(run: Run) -> float:
    """Held-out accuracy; nothing for what diverged."""
    return 100 * (run.held_out_accuracy or 0.0)
