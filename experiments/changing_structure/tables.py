"""What do the tables of a question say?"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from statistics import mean

from experiments.changing_structure.arms import ARMS, FAMILIES
from experiments.changing_structure.config import RATES, SOURCE_TITLES
from experiments.changing_structure.intervals import compared
from experiments.changing_structure.plan import CLAIMS, claim_cells
from experiments.changing_structure.results import Run, cell_of, finalists, finals, gain, rates, screened
from experiments.changing_structure.verdict import over
from experiments.spread import spread

__all__ = ["NOT_RUN", "decoupled_table", "finals_table", "large_table", "rates_table", "screening_table"]

NOT_RUN = "not run"


def finals_table(runs: Collection[Run], family: str, length: str) -> Iterator[str]:
    """Test accuracy of the finalists, the difference from the baseline, and what it cost."""
    own, found = FAMILIES[family], finals(runs)
    yield (
        f"| | {' | '.join(task.title for task in own.tasks)} | all, over *{ARMS[own.baseline].title}* | "
        "training FLOPs | parameters in the end | train loss |"
    )
    yield "|---|" + "---:|" * (len(own.tasks) + 4)
    arms = finalists(runs, family, length)
    for arm in arms or own.controls:
        each = [list(found.get(cell_of(family, arm, task, length), {}).values()) for task in own.tasks]
        base = [list(found.get(cell_of(family, own.baseline, task, length), {}).values()) for task in own.tasks]
        cells = [spread([run.accuracy for run in of_task], ".2f") if of_task else NOT_RUN for of_task in each]
        points = "" if arm == own.baseline else str(over(found, family, arm, own.baseline, length) or NOT_RUN)
        costs = [a[0].forward_flops / b[0].forward_flops for a, b in zip(each, base, strict=True) if a and b]
        cost = f"{mean(costs):.2f}" if len(costs) == len(own.tasks) else NOT_RUN
        sizes = ", ".join(f"{mean(r.num_parameters for r in of_task):,.0f}" for of_task in each if of_task)
        losses = ", ".join(_loss(of_task) for of_task in each if of_task)
        rest = f"{cost} | {sizes or NOT_RUN} | {losses or NOT_RUN}"
        yield f"| {ARMS[arm].title} | {' | '.join(cells)} | {points} | {rest} |"
    if not arms:
        yield f"| the other finalists | {' | '.join([NOT_RUN] * (len(own.tasks) + 4))} |"


def screening_table(runs: Collection[Run], family: str, length: str) -> Iterator[str]:
    """Held-out accuracy of all arms, with one seed."""
    own, found, chosen = FAMILIES[family], screened(runs), finalists(runs, family, length)
    yield (
        f"| | group | {' | '.join(task.title for task in own.tasks)} | mean over *{ARMS[own.baseline].title}* | "
        "times that it happened | finalist |"
    )
    yield "|---|---|" + "---:|" * (len(own.tasks) + 2) + "---|"
    for arm in own.arms:
        each = [found.get(cell_of(family, arm, task, length)) for task in own.tasks]
        cells = [NOT_RUN if run is None else "diverged" if run.diverged else f"{run.accuracy:.2f}" for run in each]
        points = gain(found, family, arm, length)
        said = NOT_RUN if points is None else f"{points:+.2f}"
        counts = ", ".join("-" if run is None else str(_times(run)) for run in each)
        group = own.group_of(arm) or "control"
        mark = "yes" if arm in chosen else ""
        yield f"| {ARMS[arm].title} | {group} | {' | '.join(cells)} | {said} | {counts} | {mark} |"


def rates_table(runs: Collection[Run]) -> Iterator[str]:
    """The rate of each arm that has a grid of its own, with the held-out accuracy at each rate."""
    yield f"| | | {' | '.join(f'{rate:g}' for rate in RATES)} | chosen |"
    yield "|---|---|" + "---:|" * (len(RATES) + 1)
    chosen = rates(runs)
    tried = {(run.arm, run.cell.task, run.rate): run for run in runs if run.held_out_accuracy is not None}
    arms = dict.fromkeys(arm for family in FAMILIES.values() for arm in family.arms if not ARMS[arm].rate_of)
    for arm in arms:
        for task in next(family.tasks for family in FAMILIES.values() if arm in family.arms):
            found = [tried.get((arm, task, rate)) for rate in RATES]
            cells = [NOT_RUN if run is None else f"{run.accuracy:.2f}" for run in found]
            rate = chosen.get((arm, task))
            edge = ", edge" if rate in (min(RATES), max(RATES)) else ""
            said = NOT_RUN if rate is None else f"{rate:g}{edge}"
            yield f"| {ARMS[arm].title} | {task.title} | {' | '.join(cells)} | {said} |"


def decoupled_table(runs: Collection[Run]) -> Iterator[str]:
    """Test accuracy of a baseline and of the best finalist, on gradients of each source."""
    yield "| | gradients | the baseline | the best finalist | difference |"
    yield "|---|---|---:|---:|---:|"
    found = finals(runs)
    for family in CLAIMS:
        for source, words in SOURCE_TITLES.items():
            cells = claim_cells(runs, family, source)
            texts = [f"{ARMS[cell.arm].title}: {_accuracies(list(found.get(cell, {}).values()))}" for cell in cells]
            points = compared(found, cells[1:], cells[:1]) if cells else None
            both = " | ".join(texts or [NOT_RUN] * 2)
            yield f"| {FAMILIES[family].title} | {words} | {both} | {points or NOT_RUN} |"


def large_table(runs: Collection[Run]) -> Iterator[str]:
    """Test accuracy of the finalists at the large size."""
    yield "| question | | test accuracy, % |"
    yield "|---|---|---|"
    found = finals(runs)
    for name, own in FAMILIES.items():
        for arm in finalists(runs, name, "samples") or own.controls:
            cells = [(task, cell_of(name, arm, task, "samples")._replace(size="large")) for task in own.tasks]
            texts = [f"{task.title} {_accuracies(list(found.get(cell, {}).values()))}" for task, cell in cells]
            yield f"| {own.title} | {ARMS[arm].title} | {', '.join(texts)} |"


def _accuracies(runs: list[Run]) -> str:
    return spread([run.accuracy for run in runs], ".2f") if runs else NOT_RUN


def _loss(runs: list[Run]) -> str:
    losses = [run.train_loss for run in runs if run.train_loss is not None]
    return f"{mean(losses):.3f}" if len(losses) == len(runs) else "diverged"


def _times(run: Run) -> int:
    """How often its events were carried out, in all stages together."""
    return sum(run.num_changes.values())
