"""Do the results say what the README says they say?

Rebuilds the README's tables and the picture from results.jsonl; with --check only compares, and names what is wrong.

    python -m experiments.bjorck2021_decay.table [--check]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TypeAlias

import tyro

from experiments.bjorck2021_decay.config import ARMS, INVARIANT, NONE, OPTIMIZERS, SEEDS, WINDOWS, Arm
from experiments.bjorck2021_decay.picture import PICTURE, draw
from experiments.bjorck2021_decay.results import (
    FOLDER,
    Case,
    Expected,
    Run,
    best_rates,
    best_strengths,
    counted,
    read_expected,
    read_runs,
)
from experiments.readme import rebuild

__all__ = ["failures", "main", "measured", "render"]

Counted: TypeAlias = Mapping[Case, Sequence[Run]]
_CLAIMED = ("all", "first 10 %", "first 25 %", "first 50 %", "last 50 %", "last 25 %")
"""Windows of which expected.csv says what they win over no decay."""


def render(runs: Sequence[Run]) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    own = counted(runs)
    return {
        "accuracy": _table(own, lambda case: _spread(100 * value for value in _accuracies(own.get(case, ())))),
        "gains": _table(own, lambda case: _spread(_gains(own, case), "+.2f")),
        "loss": _table(own, lambda case: _spread((run.train_loss for run in own.get(case, ())), ".3f")),
        "norms": _table(own, lambda case: _spread(_at_end(own.get(case, ()), "weight_norm"))),
        "angles": _table(own, lambda case: _spread(_degrees(own.get(case, ())), ".3f")),
        "chosen": _chosen(runs),
        "machine": "\n".join(_machines(runs)) or "not run",
    }


def measured(runs: Sequence[Run]) -> dict[str, list[float]]:
    """What expected.csv is about: a value per seed, by row."""
    own = counted(runs)
    found = {}
    for arm in ARMS:
        name = f"{arm.optimizer}_{arm.coupling}".lower()
        for window in _CLAIMED:
            found[f"{name}_{window}".replace(" %", "").replace(" ", "_")] = _gains(own, _case(arm, window))
        found[f"{name}_norm"] = _ratios(own, arm, "weight_norm")
        found[f"{name}_angle"] = _ratios(own, arm, "angular_update")
    return found


def failures(expected: Mapping[str, Expected], runs: Sequence[Run]) -> list[str]:
    """What of the expectations does not hold, row by row; nothing is missing as long as there is no result."""
    found = measured(runs)
    return [line for row in expected.values() for line in _row_failures(row, found[row.row])] if runs else []


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables and the picture from the results.

    Args:
        check: change nothing; end with 1 and say what is wrong if the README or a tolerance is not met.
        folder: where README.md, expected.csv and results.jsonl lie.
    """
    runs = read_runs(folder / "results.jsonl")
    wrong = rebuild(folder / "README.md", render(runs), check=check)
    if check:
        wrong += failures(read_expected(folder / "expected.csv"), runs)
    elif runs:
        draw(counted(runs), folder / PICTURE)
    for line in wrong:
        print(line)
    return 1 if wrong else 0


def _case(arm: Arm, window: str) -> Case:
    """Without decay there is one case for all arms of an optimiser."""
    return Case(arm.optimizer, "" if window == NONE else arm.coupling, window)


def _table(own: Counted, cell: Callable[[Case], str]) -> str:
    lines = [f"| decay | {' | '.join(arm.title for arm in ARMS)} |", "|---|" + "---:|" * len(ARMS)]
    for window in WINDOWS:
        cells = [cell(_case(arm, window)) if _case(arm, window) in own else "not run" for arm in ARMS]
        lines.append(f"| {window} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _chosen(runs: Sequence[Run]) -> str:
    """Held-out accuracy of what was tried with the first seed."""
    rates, strengths = best_rates(runs), best_strengths(runs)
    lines = ["| | tried: held-out accuracy in % | taken |", "|---|---|---:|"]
    for optimizer, tried in OPTIMIZERS.items():
        found = _tried(runs, [Case(optimizer, "", NONE)], tried, lambda run: run.rate)
        lines.append(f"| {optimizer}, rate | {found} | {_number(rates.get(optimizer))} |")
    for arm in ARMS:
        own = [run for run in runs if run.rate == rates.get(arm.optimizer)]
        found = _tried(own, [_case(arm, "all")], arm.strengths, lambda run: run.strength)
        taken = strengths.get((arm.optimizer, str(arm.coupling)))
        lines.append(f"| {arm.title}, strength | {found} | {_number(taken)} |")
    return "\n".join(lines)


def _tried(
    runs: Iterable[Run], cases: Sequence[Case], values: Iterable[float], value_of: Callable[[Run], float]
) -> str:
    found = {value_of(run): run.held_out_accuracy for run in runs if run.case in cases and run.seed == SEEDS[0]}
    texts = []
    for value in values:
        accuracy = found.get(value)
        text = "not run" if value not in found else "diverged" if accuracy is None else f"{100 * accuracy:.2f}"
        texts.append(f"{value:g}: {text}")
    return ", ".join(texts)


def _learned(run: Run) -> bool:
    return run.test_accuracy is not None


def _accuracies(own: Iterable[Run]) -> list[float]:
    return [run.test_accuracy for run in own if run.test_accuracy is not None]


def _gains(own: Counted, case: Case) -> list[float]:
    """Points of test accuracy over no decay, of the same optimiser and seed."""
    without = {run.seed: run.test_accuracy for run in own.get(Case(case.optimizer, "", NONE), ())}
    pairs = [(run.test_accuracy, without.get(run.seed)) for run in own.get(case, ())]
    return [100 * (found - base) for found, base in pairs if found is not None and base is not None]


def _at_end(own: Iterable[Run], measure: str) -> list[float]:
    """A measure in the last part of the run, the geometric mean over the weights before a normalisation."""
    return [
        math.exp(mean(math.log(run.course[f"{measure}/0.{name}"][-1]) for name in INVARIANT))
        for run in own
        if _learned(run)
    ]


def _degrees(own: Iterable[Run]) -> list[float]:
    return [math.degrees(angle) for angle in _at_end(own, "angular_update")]


def _ratios(own: Counted, arm: Arm, measure: str) -> list[float]:
    """What decay in the first quarter leaves of a measure at the end of the run, as a multiple of no decay's."""
    early, without = (own.get(_case(arm, window), ()) for window in ("first 25 %", NONE))
    bases = dict(zip((run.seed for run in without if _learned(run)), _at_end(without, measure), strict=True))
    found = dict(zip((run.seed for run in early if _learned(run)), _at_end(early, measure), strict=True))
    return [value / bases[seed] for seed, value in found.items() if seed in bases]


def _number(value: float | None) -> str:
    return "not run" if value is None else f"{value:g}"


def _spread(values: Iterable[float | None], digits: str = ".2f") -> str:
    """Mean and standard deviation over the seeds."""
    found = [value for value in values if value is not None]
    if not found:
        return "diverged"
    text = f"{mean(found):{digits}}"
    return f"{text} ± {stdev(found):{digits.removeprefix('+')}}" if len(found) > 1 else text


def _machines(runs: Sequence[Run]) -> list[str]:
    texts = (
        f"* {found['date']}: {found['processor']}, {found['cores']} cores, Python {found['python']}, "
        f"torch {found['torch']}, commit {found['commit']}"
        for found in (run.machine for run in runs)
    )
    return sorted(set(texts))


def _row_failures(row: Expected, found: Sequence[float]) -> list[str]:
    if len(found) < row.seeds:
        return [f"{row.row}: needs {row.seeds} seeds, has {len(found)}; run it"]
    if row.ours is None:
        return [f"{row.row}: expected.csv has no value of ours; the results give {mean(found):.2f}"]
    if abs(mean(found) - row.ours) > row.tolerance:
        return [f"{row.row}: {mean(found):.2f} lies outside {row.ours:.2f} ± {row.tolerance:.2f}"]
    return []


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
