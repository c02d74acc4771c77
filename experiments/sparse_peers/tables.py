"""How accurate is each rule, how much does it learn, and how long does it take? The tables of the results."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from statistics import fmean

from experiments.sparse_peers.config import (
    CELLS,
    LARGE,
    NETS,
    SEEDS,
    SIZES,
    SMALL,
    TASKS,
    Cell,
    Task,
)
from experiments.sparse_peers.results import (
    Counted,
    Ratios,
    Run,
    Timing,
    at_the_edge,
    counted,
    differences,
    pending,
    ratios,
    state_ratio,
)
from experiments.sparse_peers.rules import FULL, OPTIMIZERS, RULES
from experiments.spread import spread

__all__ = ["NOT_RUN", "over_tasks", "parts"]

NOT_RUN = "not run"


def parts(runs: Collection[Run], timings: Sequence[Timing]) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    own = counted(runs)
    tables = {f"{task.net} {task.data}": _task(own, timings, task) for task in TASKS}
    tables |= {f"time {size}": _times(timings, size) for size in SIZES}
    tables |= {"summary": _summary(own, timings), "large": _large(own), "warnings": _warnings(own, runs)}
    return {name: "\n".join(lines) for name, lines in (tables | {"cost": _cost(runs)}).items()}


def over_tasks(own: Counted, *, optimizer: str, rule: str) -> list[float]:
    """Points of test accuracy over full training, seed by seed, the mean over all tasks; empty if a run lacks."""
    found = [differences(own, Cell(SMALL, task, optimizer, rule)) for task in TASKS]
    return [fmean(each[seed] for each in found) for seed in SEEDS] if all(set(SEEDS) <= set(f) for f in found) else []


def _summary(own: Counted, timings: Sequence[Timing]) -> Iterator[str]:
    nets = ", ".join(NETS.values())
    yield (
        f"| rule | over full, SGD | over full, Adam | layer-steps, % | back-propagation: {nets} | whole step: {nets} | "
        "Adam's state |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for rule in (rule for rule in RULES if rule != FULL):
        gains = [_gain(own, optimizer, rule) for optimizer in OPTIMIZERS]
        runs = [run for cell, seeds in own.items() if _is(cell, rule) for run in seeds.values()]
        learned = f"{100 * fmean(run.learned for run in runs):.0f}" if runs else NOT_RUN
        found = [ratios(timings, size=SMALL, net=net, optimizer="SGD", rule=rule) for net in NETS]
        times = [", ".join(_ratio(each, kind) for each in found) for kind in ("backward", "step")]
        yield f"| {RULES[rule].title} | {' | '.join(gains)} | {learned} | {' | '.join(times)} | {_states(own, rule)} |"


def _task(own: Counted, timings: Sequence[Timing], task: Task) -> Iterator[str]:
    yield (
        "| optimiser | rule | rate | test accuracy, % | over full | layer-steps, % | back-propagation | whole step | "
        "optimiser state, KiB |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for optimizer in OPTIMIZERS:
        for rule in (rule for rule in RULES if optimizer in RULES[rule].optimizers):
            cell = Cell(SMALL, task, optimizer, rule)
            runs = list(own.get(cell, {}).values())
            head = f"| {optimizer} | {RULES[rule].title} | {_rate(own, cell)} | {_accuracy(runs)} |"
            gains = list(differences(own, cell).values())
            over = "" if rule == FULL or (runs and not gains) else _spread(gains, "+.2f")
            learned = f"{100 * fmean(run.learned for run in runs):.0f}" if runs else ""
            time = ratios(timings, size=SMALL, net=task.net, optimizer=optimizer, rule=rule)
            state = f"{max(run.state_bytes for run in runs) / 1024:.0f}" if runs else ""
            yield f"{head} {over} | {learned} | {_ratio(time, 'backward')} | {_ratio(time, 'step')} | {state} |"


def _large(own: Counted) -> Iterator[str]:
    yield f"| optimiser | rule | {' | '.join(task.title for task in TASKS)} |"
    yield "|---|---|" + "---:|" * len(TASKS)
    for optimizer in OPTIMIZERS:
        for rule in (rule for rule in RULES if optimizer in RULES[rule].optimizers):
            cells = [Cell(LARGE, task, optimizer, rule) for task in TASKS]
            texts = [_accuracy(list(own.get(cell, {}).values())) for cell in cells]
            yield f"| {optimizer} | {RULES[rule].title} | {' | '.join(texts)} |"


def _times(timings: Sequence[Timing], size: str) -> Iterator[str]:
    """Full training's milliseconds, and what part of them the others take."""
    kinds = ("back-propagation", "whole step")
    titles = [f"{NETS[net]}, {optimizer}: {kind}" for net in NETS for optimizer in OPTIMIZERS for kind in kinds]
    yield f"| rule | {' | '.join(titles)} |"
    yield "|---|" + "---:|" * len(titles)
    for rule in RULES:
        texts = []
        for net in NETS:
            for optimizer in OPTIMIZERS:
                if optimizer not in RULES[rule].optimizers:
                    texts += ["", ""]
                elif rule == FULL:
                    texts += _milliseconds(timings, size=size, net=net, optimizer=optimizer)
                else:
                    found = ratios(timings, size=size, net=net, optimizer=optimizer, rule=rule)
                    texts += [_ratio(found, "backward"), _ratio(found, "step")]
        yield f"| {RULES[rule].title} | {' | '.join(texts)} |"


def _milliseconds(timings: Sequence[Timing], *, size: str, net: str, optimizer: str) -> list[str]:
    own = [t for t in timings if (t.size, t.net, t.optimizer, t.rule) == (size, net, optimizer, FULL)]
    return [f"{own[-1].backward_ms:.2f} ms", f"{own[-1].step_ms:.2f} ms"] if own else [NOT_RUN, NOT_RUN]


def _warnings(own: Counted, runs: Collection[Run]) -> Iterator[str]:
    """What the tables are not to be trusted in."""
    rates = {cell: next(iter(seeds.values())).rate for cell, seeds in own.items()}
    lines = [
        f"* {cell.title}: the best rate, {rate:g}, is at the edge of the grid; a better one may lie beyond."
        for cell, rate in rates.items()
        if at_the_edge(cell, rate)
    ]
    tried = dict.fromkeys(run.cell for run in runs)
    lines += [f"* {cell.title}: not all of its runs have been made." for cell in tried if pending(cell, runs)]
    yield from lines or ["* None." if runs else f"* {NOT_RUN}"]


def _cost(runs: Collection[Run]) -> Iterator[str]:
    yield "| | rules on tasks | finished | runs | minutes of one core |"
    yield "|---|---:|---:|---:|---:|"
    for size in SIZES:
        cells = [cell for cell in CELLS if cell.size == size]
        own = [run for run in runs if run.size == size]
        by_cell: Mapping[Cell, list[Run]] = {cell: [run for run in own if run.cell == cell] for cell in cells}
        num_done = sum(not pending(cell, each) for cell, each in by_cell.items())
        minutes = f"{sum(run.wall_s for run in own) / 60:.1f}" if own else NOT_RUN
        yield f"| {size} | {len(cells)} | {num_done} | {len(own)} | {minutes} |"


def _gain(own: Counted, optimizer: str, rule: str) -> str:
    if optimizer not in RULES[rule].optimizers:
        return ""
    gains = over_tasks(own, optimizer=optimizer, rule=rule)
    begun = any(Cell(SMALL, task, optimizer, rule) in own for task in TASKS)
    return "incomplete" if begun and not gains else _spread(gains, "+.2f")


def _states(own: Counted, rule: str) -> str:
    """Of Adam, as a part of full training's."""
    if "Adam" not in RULES[rule].optimizers:
        return ""
    share = state_ratio(own, optimizer="Adam", rule=rule)
    return NOT_RUN if share is None else f"{share:.2f}"


def _is(cell: Cell, rule: str) -> bool:
    return cell.size == SMALL and cell.rule == rule


def _rate(own: Counted, cell: Cell) -> str:
    if not own.get(cell):
        return ""
    rate = next(iter(own[cell].values())).rate
    return f"{rate:g} (edge)" if at_the_edge(cell, rate) else f"{rate:g}"


def _accuracy(runs: Sequence[Run]) -> str:
    """On the test samples, in percent: mean and standard deviation over the seeds."""
    found = [100 * run.test_accuracy for run in runs if run.test_accuracy is not None]
    lost = f"diverged ({len(runs) - len(found)} of {len(runs)})" if len(found) < len(runs) else ""
    return " ".join(filter(None, (_spread(found, ".2f") if found else "", lost))) or NOT_RUN


def _spread(values: Sequence[float], form: str) -> str:
    return spread(values, form) if values else NOT_RUN


def _ratio(found: Ratios | None, kind: str) -> str:
    return NOT_RUN if found is None else f"{getattr(found, kind):.2f}"
