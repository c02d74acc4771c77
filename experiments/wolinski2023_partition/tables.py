"""What do the runs and the traces say, in tables?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean, median

from experiments.spread import spread
from experiments.wolinski2023_partition.config import ARMS, FIRST_ORDER, FULL, TASKS, Setting, Task, arms_of
from experiments.wolinski2023_partition.results import Look, Run, Trace, best_point, best_setting, counted

__all__ = [
    "coupling",
    "equal_steps",
    "equal_time",
    "eta",
    "found_rates",
    "one_rate",
    "shares_by_distance",
    "steps_ahead",
    "tries",
]

_STEPS = (
    ("full H, as found", "newton", True),
    ("full H", "newton", False),
    ("cubic 1, as found", "cubic 1", True),
    ("cubic 1", "cubic 1", False),
    ("cubic 10", "cubic 10", False),
    ("cubic 1, rates from 0 on", "bounded", False),
    ("diagonal", "diagonal", False),
    ("S = 1", "one", False),
)
"""Title, rule, and whether its rates below zero are used."""
_NOT_RUN = "not run"


def tries(runs: Sequence[Run]) -> str:
    """Held-out accuracy of what was tried with the first seed."""
    lines = ["| task | arm | setting: held-out accuracy, % |", "|---|---|---|"]
    for task in TASKS:
        for arm in arms_of(task):
            own = {
                run.setting: run
                for run in runs
                if (run.task, run.arm, run.seed, run.limit_s) == (task.name, arm, task.seeds[0], None)
            }
            best = best_setting(runs, task, arm)
            texts = []
            for setting in task.tries[arm]:
                text = f"({setting}): {_tried(own.get(setting))}"
                texts.append(f"**{text}**" if setting == best else text)
            lines.append(f"| {task.name} | {ARMS[arm].title} | {'; '.join(texts) if own else _NOT_RUN} |")
    return "\n".join(lines)


def equal_steps(runs: Sequence[Run]) -> str:
    """Every arm at its best setting, after as many steps."""
    lines = [
        "| task | arm | training loss | held-out accuracy, % | test accuracy, % | processor time, s "
        "| a step, in Adam's steps |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for task in TASKS:
        adam_s = _step_s(task, counted(runs, task, "Adam"))
        for arm in arms_of(task):
            own = [run for run in counted(runs, task, arm) if not run.diverged]
            cells = [_NOT_RUN if not counted(runs, task, arm) else "diverged", "", "", "", ""]
            if own:
                points = [run.by_step(task.steps) for run in own]
                best = [best_point(each) for each in points]
                step_s = _step_s(task, own)
                cells = [
                    spread([each[-1].train_loss for each in points], ".3f"),
                    spread([100 * point.held_out_accuracy for point in best], ".2f"),
                    spread([100 * point.test_accuracy for point in best], ".2f"),
                    spread([each[-1].cpu_s for each in points], ".1f"),
                    f"{step_s / adam_s:.1f}" if step_s and adam_s else "",
                ]
            lines.append(f"| {task.name}, {task.steps} steps | {ARMS[arm].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def equal_time(runs: Sequence[Run]) -> str:
    """The method, and Adam and SGD as long as it took."""
    lines = [
        "| task | arm | processor time, s | steps | training loss | held-out accuracy, % | test accuracy, % |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for task in TASKS:
        for arm in (FULL, *FIRST_ORDER):
            own = [run for run in counted(runs, task, arm, timed=arm in FIRST_ORDER) if not run.diverged]
            cells = [_NOT_RUN, "", "", "", ""]
            if own:
                best = [best_point(run.points) for run in own]
                cells = [
                    spread([run.cpu_s for run in own], ".1f"),
                    spread([float(run.num_steps) for run in own], ".0f"),
                    spread([run.points[-1].train_loss for run in own], ".3f"),
                    spread([100 * point.held_out_accuracy for point in best], ".2f"),
                    spread([100 * point.test_accuracy for point in best], ".2f"),
                ]
            lines.append(f"| {task.name} | {ARMS[arm].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def found_rates(runs: Sequence[Run]) -> str:
    """How often rates were negative, not used, or not to be had: at the best setting, over all seeds."""
    lines = [
        "| task | arm | summaries | without rates, % | rates below zero, % | rates used that are zero, % "
        "| most often below zero |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for task in TASKS:
        for arm in (arm for arm in arms_of(task) if arm not in FIRST_ORDER):
            own = counted(runs, task, arm)
            cells = [_NOT_RUN, "", "", "", ""]
            if own and sum(len(run.found) for run in own):
                total = sum(len(run.found) for run in own)
                names = list(next(found for run in own for found in run.found if found is not None))
                negative = {name: sum(run.negative.get(name, 0) for run in own) for name in names}
                solved = total - sum(run.num_unsolved for run in own)
                worst = max(names, key=lambda name: negative[name])
                cells = [
                    f"{total}",
                    f"{100 * (total - solved) / total:.1f}",
                    f"{100 * sum(negative.values()) / (solved * len(names)):.1f}",
                    f"{100 * sum(sum(run.stopped.values()) for run in own) / (total * len(names)):.1f}",
                    f"{worst}: {100 * negative[worst] / solved:.0f} %" if negative[worst] and len(names) > 1 else "",
                ]
            lines.append(f"| {task.name} | {ARMS[arm].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def eta(traces: Sequence[Trace]) -> str:
    """Medians over the looks of each trace."""
    lines = [
        "| task | trained by, rate | along | S = 1 | S = 1, late | full H, cubic 1, late: least | greatest "
        "| biases over weights | below zero, % | full H without cubic: below zero, % |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for trace in _shown(traces):
        late = _late(trace)
        cells = [_median_of_one(trace.looks), _median_of_one(late), "", "", ""]
        found = [rates for look in late if (rates := look.rates["cubic 1"])]
        if found:
            rates = dict(zip(trace.names, map(median, zip(*found, strict=True)), strict=True))
            sizes = [
                median(abs(value) for each in found for value in _of_kind(trace, each, kind))
                for kind in ("bias", "weight")
            ]
            least, most = (pick(rates, key=lambda name: rates[name]) for pick in (min, max))
            cells[2:] = [f"{rates[least]:.2g} ({least})", f"{rates[most]:.2g} ({most})", f"{sizes[0] / sizes[1]:.0f}"]
        cells += [f"{_below_zero(trace.looks, rule):.0f}" for rule in ("cubic 1", "newton")]
        lines.append(f"| {trace.task} | {trace.arm}, {trace.rate:g} | {trace.direction} | {' | '.join(cells)} |")
    return "\n".join(lines)


def one_rate(runs: Sequence[Run], traces: Iterable[Trace]) -> str:
    """The rate of an exact line search along an optimiser, by the rate that the optimiser trained with."""
    lines = [
        "| task | trained by | at the rate | held-out accuracy, % | S = 1 along it, first third | last third | whole |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for trace in _shown(traces):
        if trace.direction != "optimiser":
            continue
        setting = Setting(rate=trace.rate)
        tried = [run for run in runs if (run.task, run.arm, run.setting) == (trace.task, trace.arm, setting)]
        own = [run for run in tried if run.limit_s is None]
        looks = trace.looks
        cells = [_median_of_one(some) for some in (looks[: max(1, len(looks) // 3)], _late(trace), looks)]
        seen = _tried(own[0]) if own else ""
        lines.append(f"| {trace.task} | {trace.arm} | {trace.rate:g} | {seen} | {' | '.join(cells)} |")
    return "\n".join(lines)


def steps_ahead(traces: Sequence[Trace]) -> str:
    """What one whole step with the rates of a rule would change in the loss of the samples they come from."""
    lines = [
        f"| task | trained by | along | {' | '.join(title for title, _, _ in _STEPS)} |",
        "|---|---|---|" + "---:|" * len(_STEPS),
    ]
    for trace in _shown(traces):
        cells = []
        for _, rule, as_found in _STEPS:
            found = [(look.changes_as_found if as_found else look.changes).get(rule) for look in trace.looks]
            changes = [change for change in found if change is not None]
            rises = 100 * mean(change > 0 for change in changes) if changes else 0
            cells.append(f"{median(changes):+.3f} ({rises:.0f} %)" if changes else "no rates")
        lines.append(f"| {trace.task} | {trace.arm} | {trace.direction} | {' | '.join(cells)} |")
    return "\n".join(lines)


def coupling(traces: Sequence[Trace]) -> str:
    """|H_st| / sqrt |H_ss H_tt|: the mean over the last third of each trace."""
    lines = [
        "| task | trained by | along | all pairs | weight and bias of a layer | adjacent layers | layers further apart "
        "| negative eigenvalues of H, of S |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for trace in _shown(traces):
        late = _late(trace)
        shares = shares_by_distance(trace)
        cells = [f"{mean(value for values in shares for value in values):.3f}"]
        cells += [f"{mean(values):.3f}" if values else "" for values in shares]
        cells.append(f"{mean(look.num_negative_curvatures for look in late):.1f} of {len(trace.names)}")
        lines.append(f"| {trace.task} | {trace.arm} | {trace.direction} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shares_by_distance(trace: Trace) -> list[list[float]]:
    """Interactions off the diagonal: within a layer, of adjacent layers, of layers further apart."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in trace.names))
    places = [layers.index(name.rpartition(".")[0]) for name in trace.names]
    found: list[list[float]] = [[], [], []]
    for s, row in enumerate(trace.interactions):
        for t, value in enumerate(row):
            if s != t:
                found[min(abs(places[s] - places[t]), 2)].append(value)
    return found


def _shown(traces: Iterable[Trace]) -> list[Trace]:
    order = [task.name for task in TASKS]
    return sorted(traces, key=lambda trace: (order.index(trace.task), trace.arm, trace.direction, trace.rate))


def _late(trace: Trace) -> list[Look]:
    """Its last third."""
    return trace.looks[-max(1, len(trace.looks) // 3) :]


def _median_of_one(looks: Iterable[Look]) -> str:
    ones = [rates[0] for look in looks if (rates := look.rates["one"])]
    return f"{median(ones):.2g}" if ones else "no rates"


def _of_kind(trace: Trace, rates: Sequence[float], kind: str) -> list[float]:
    """Those of weights, or of biases."""
    return [rate for name, rate in zip(trace.names, rates, strict=True) if name.endswith(kind)]


def _below_zero(looks: Iterable[Look], rule: str) -> float:
    """Percent of the rates found."""
    rates = [rate for look in looks for rate in look.rates[rule] or ()]
    return 100 * mean(rate < 0 for rate in rates) if rates else 0.0


def _step_s(task: Task, runs: Sequence[Run]) -> float | None:
    own = [run.cpu_s / run.num_steps for run in runs if run.num_steps]
    return mean(own) if own else None


def _tried(run: Run | None) -> str:
    if run is None:
        return _NOT_RUN
    return "diverged" if run.diverged else f"{100 * best_point(run.points).held_out_accuracy:.2f}"
