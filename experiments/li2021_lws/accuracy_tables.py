"""How accurate is which rule, and how much faster was its back-propagation? The tables of results.jsonl."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from statistics import mean, stdev

from experiments.li2021_lws.config import (
    DATA,
    EVERYTHING,
    FULL_NETS,
    INVERSE,
    NETS,
    NORMALISED,
    PROBABILITIES,
    RATES,
    RESCALED,
    SEEDS,
    SHORTENED,
    STATIC,
    TASKS,
    TOPS,
    TUNED,
    TUNED_INVERSE,
    WIDE_RULES,
    WIDE_TASK,
    Rule,
    Task,
)
from experiments.li2021_lws.results import (
    Counted,
    Run,
    at_equal_time,
    best_rates,
    counted,
    finalists,
    shortened,
    speed_up,
)
from experiments.spread import spread

__all__ = ["accuracy_parts", "differences", "held"]


def accuracy_parts(runs: Collection[Run]) -> dict[str, str]:
    """The generated parts of the README that results.jsonl gives, by the names of their markers."""
    own = counted(runs)
    parts = {f"grid {data}": "\n".join(_grid(data, own)) for data in DATA}
    return parts | {
        "finalists": "\n".join(_finalists(own, shortened(runs))),
        "lengths": "\n".join(_lengths(shortened(runs))),
        "wide": "\n".join(_wide(own)),
        "static": "\n".join(_static(own)),
        "rescaled": "\n".join(_rescaled(own)),
        "batch norm": "\n".join(_normalised(own)),
        "rates": "\n".join(_rates(runs)),
    }


def differences(own: Counted, task: Task, rule: Rule) -> list[float]:
    """Points of test accuracy over full SGD, seed by seed."""
    full = {run.seed: run.test_accuracy for run in own.get((task, EVERYTHING), ())}
    pairs = [(run.test_accuracy, full.get(run.seed)) for run in own.get((task, rule), ())]
    return [100 * (found - base) for found, base in pairs if found is not None and base is not None]


def held(own: Counted, task: Task, rule: Rule) -> bool | None:
    """Whether the loss is at most twice the standard deviation of full SGD over the seeds; None: not known yet."""
    found = differences(own, task, rule)
    full = [100 * run.test_accuracy for run in own.get((task, EVERYTHING), ()) if run.test_accuracy is not None]
    return -mean(found) <= 2 * stdev(full) if len(found) == len(full) == len(SEEDS) else None


def _finalists(own: Counted, lengths: Mapping[Task, Sequence[Run]]) -> Iterator[str]:
    yield (
        "| network | data | full SGD | finalist | | test accuracy | over full SGD | held | back-propagation | "
        "over full SGD in the same time |"
    )
    yield "|---|---|---:|---|---|---:|---:|---|---:|---:|"
    for task in TASKS:
        full, chosen = own.get((task, EVERYTHING), ()), finalists(own, task)
        head = f"| {NETS[task[0]].title} | {task[1]} | {_accuracy(full)} |"
        if not chosen:
            yield f"{head} not run | | | | | | |"
        for kind, rule in chosen.items():
            runs = own[task, rule]
            verdict = {True: "yes", False: "no", None: "too few seeds"}[held(own, task, rule)]
            faster = [found for run in runs if (found := speed_up(run)) is not None]
            pairs = [(run.test_accuracy, at_equal_time(run, lengths.get(task, ()))) for run in runs]
            over = [100 * (a - b) for a, b in pairs if a is not None and b is not None]
            cells = [kind, rule.title, _accuracy(runs), _spread(differences(own, task, rule), "+.2f"), verdict]
            times = f"{mean(faster):.1f} x" if faster else "not known"
            yield f"{head} {' | '.join(cells)} | {times} | {_spread(over, '+.2f')} |"


def _wide(own: Counted) -> Iterator[str]:
    yield "| network | rule | test accuracy | over full SGD | held | back-propagation |"
    yield "|---|---|---:|---:|---|---:|"
    for rule in WIDE_RULES:
        runs, head = own.get((WIDE_TASK, rule), ()), f"| {NETS[WIDE_TASK[0]].title} | {rule.title} |"
        if not runs or rule == EVERYTHING:
            yield f"{head} {_accuracy(runs)} | | | |"
            continue
        verdict = {True: "yes", False: "no", None: "too few seeds"}[held(own, WIDE_TASK, rule)]
        faster = [found for run in runs if (found := speed_up(run)) is not None]
        over = _spread(differences(own, WIDE_TASK, rule), "+.2f")
        yield f"{head} {_accuracy(runs)} | {over} | {verdict} | {f'{mean(faster):.1f} x' if faster else 'not known'} |"


def _lengths(lengths: Mapping[Task, Sequence[Run]]) -> Iterator[str]:
    parts = (1, *SHORTENED)
    yield f"| network | data | {' | '.join('all steps' if part == 1 else f'1/{part}' for part in parts)} |"
    yield "|---|---|" + "---:|" * len(parts)
    for task in TASKS:
        cells = [_accuracy([run for run in lengths.get(task, ()) if run.part == part]) for part in parts]
        yield f"| {NETS[task[0]].title} | {task[1]} | {' | '.join(cells)} |"


def _grid(data: str, own: Counted) -> Iterator[str]:
    yield f"| network | p | {' | '.join(TOPS)} |"
    yield "|---|---|" + "---:|" * len(TOPS)
    for net in NETS:
        task = net, data
        full = own.get((task, EVERYTHING), ())[:1]
        if net in FULL_NETS and not finalists(own, task):
            yield f"| {NETS[net].title} | not run |" + " |" * len(TOPS)
            continue
        for probability in (0.0, *PROBABILITIES):
            cells = [_timed_cell(own.get((task, Rule(top, probability)), ()), full) for top in TOPS]
            yield f"| {NETS[net].title} | {f'{probability:g}'} | {' | '.join(cells)} |"
        for probability in dict.fromkeys(rule.probability for rule in INVERSE):
            rules = (Rule(top, probability, "inverse") for top in TOPS)
            cells = [_timed_cell(own.get((task, rule), ()), full) for rule in rules]
            yield f"| {NETS[net].title} | {probability:g}, inverse | {' | '.join(cells)} |"
        yield f"| {NETS[net].title} | 1: full SGD | {_accuracy(full)} |" + " |" * (len(TOPS) - 1)


def _static(own: Counted) -> Iterator[str]:
    titles = {"bottom": "lower half", "ends": "lowest and highest"}
    yield f"| network | data | {' | '.join(titles.get(rule.learns, rule.learns) for rule in STATIC)} | all |"
    yield "|---|---|" + "---:|" * (len(STATIC) + 1)
    for task in TASKS:
        full = own.get((task, EVERYTHING), ())[:1]
        cells = [_timed_cell(own.get((task, rule), ()), full) for rule in STATIC]
        yield f"| {NETS[task[0]].title} | {task[1]} | {' | '.join(cells)} | {_accuracy(full)} |"


def _rescaled(own: Counted) -> Iterator[str]:
    yield "| network | rule | leave | inverse | elapsed |"
    yield "|---|---|---:|---:|---:|"
    for net in (net for net, settings in NETS.items() if settings.rescales):
        for base in dict.fromkeys(rule._replace(rescale="leave") for rule in RESCALED):
            rules = (base._replace(rescale=how) for how in ("leave", "inverse", "elapsed"))
            cells = [_rated_cell(own.get(((net, "fashion"), rule), ())) for rule in rules]
            yield f"| {NETS[net].title} | {base.title} | {' | '.join(cells)} |"


def _normalised(own: Counted) -> Iterator[str]:
    yield "| network | data | rule | follow | hold | evaluate |"
    yield "|---|---|---|---:|---:|---:|"
    for task in TASKS:
        for base in dict.fromkeys(rule._replace(batch_norm="follow") for rule in NORMALISED):
            if NETS[task[0]].normalises:
                rules = (base._replace(batch_norm=how) for how in ("follow", "hold", "evaluate"))
                cells = [_accuracy(own.get((task, rule), ())[:1]) for rule in rules]
                yield f"| {NETS[task[0]].title} | {task[1]} | {base.title} | {' | '.join(cells)} |"


def _rates(runs: Collection[Run]) -> Iterator[str]:
    """Held-out accuracy with the first seed."""
    best = best_rates(runs)
    yield f"| network | data | rule | {' | '.join(f'{rate:g}' for rate in RATES)} | taken |"
    yield "|---|---|---|" + "---:|" * (len(RATES) + 1)
    for task in TASKS:
        for rule in (EVERYTHING, TUNED, TUNED_INVERSE):
            tried = {run.rate: run for run in runs if run.case == (task, rule) and run.seed == SEEDS[0]}
            cells = [_percent(tried[rate].held_out_accuracy) if rate in tried else "not run" for rate in RATES]
            taken = f"{best[task, rule]:g}" if (task, rule) in best else "not run"
            yield f"| {NETS[task[0]].title} | {task[1]} | {rule.title} | {' | '.join(cells)} | {taken} |"


def _timed_cell(runs: Sequence[Run], full: Sequence[Run]) -> str:
    """Of the first seed: test accuracy, and how much faster back-propagation was."""
    if not runs or runs[0].test_accuracy is None:
        return _accuracy(runs)
    faster = speed_up(runs[0], full[0] if full else None)
    return _accuracy(runs[:1]) + ("" if faster is None else f" ({faster:.1f} x)")


def _rated_cell(runs: Sequence[Run]) -> str:
    return _accuracy(runs[:1]) + (f" (rate {runs[0].rate:g})" if runs else "")


def _accuracy(runs: Sequence[Run]) -> str:
    """On the test samples, in percent: mean and standard deviation over the seeds."""
    found = [100 * run.test_accuracy for run in runs if run.test_accuracy is not None]
    return "not run" if not runs else spread(found, ".2f") if found else "diverged"


def _percent(accuracy: float | None) -> str:
    return "diverged" if accuracy is None else f"{100 * accuracy:.2f}"


def _spread(values: Iterable[float], form: str) -> str:
    found = list(values)
    return spread(found, form) if found else "not known"
