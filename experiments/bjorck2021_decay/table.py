"""Do the results say what the README says they say?

Rebuilds the README's tables and the pictures from results.jsonl and curvature.jsonl; with --check only compares, and
names what is wrong.

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

from experiments.bjorck2021_decay.bend import CURVATURE, read_bends
from experiments.bjorck2021_decay.config import ARMS, INVARIANT, NONE, SEEDS, STUDIES, WINDOWS, Arm, Study
from experiments.bjorck2021_decay.explained import BENDS, draw_bends, render_bends
from experiments.bjorck2021_decay.picture import PICTURE, draw
from experiments.bjorck2021_decay.results import (
    FOLDER,
    Case,
    Expected,
    Run,
    best_rates,
    best_strengths,
    counted,
    of_study,
    read_expected,
    read_runs,
)
from experiments.readme import rebuild

__all__ = ["failures", "main", "measured", "render"]

Counted: TypeAlias = Mapping[Case, Sequence[Run]]
FIRST, MAIN = STUDIES[0], STUDIES[-1]
"""Those with windows: at a constant rate, and where decay helps."""
_CLAIMED = ("all", "first 25 %", "first 50 %", "last 50 %", "third 25 %", "last 25 %")
"""Windows of which expected.csv says what they win over no decay."""


def render(runs: Sequence[Run]) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    first, own = counted(runs, FIRST), counted(runs, MAIN)
    last = MAIN.settings.last_at_full_rate
    return {
        "tries": _tries(runs),
        "gains": _table(MAIN, own, lambda case: _spread(_gains(own, case), "+.2f")),
        "held-out gains": _table(MAIN, own, lambda case: _spread(_gains(own, case, "held_out_accuracy"), "+.2f")),
        "accuracy": _table(MAIN, own, lambda case: _accuracy(own, case)),
        "loss": _table(MAIN, own, lambda case: _spread((run.train_loss for run in own.get(case, ())), ".3f")),
        "norms": _table(MAIN, own, lambda case: _spread(_at(last, own.get(case, ()), "weight_norm"))),
        "angles": _table(MAIN, own, lambda case: _spread(_degrees(last, own.get(case, ())))),
        "first gains": _table(FIRST, first, lambda case: _spread(_gains(first, case), "+.2f")),
        "first accuracy": _table(FIRST, first, lambda case: _accuracy(first, case)),
        "machine": "\n".join(_machines(runs)) or "not run",
    }


def measured(runs: Sequence[Run]) -> dict[str, list[float]]:
    """What expected.csv is about: a value per seed, by row."""
    own = counted(runs, MAIN)
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
    """Rebuild the README's tables and the pictures from the results.

    Args:
        check: change nothing; end with 1 and say what is wrong if the README or a tolerance is not met.
        folder: where README.md, expected.csv and the results lie.
    """
    runs = read_runs(folder / "results.jsonl")
    bends, looked_at = read_bends(folder / CURVATURE), [run for own in counted(runs, MAIN).values() for run in own]
    parts = {**render(runs), **render_bends(bends, looked_at)}
    wrong = rebuild(folder / "README.md", parts, check=check)
    if check:
        wrong += failures(read_expected(folder / "expected.csv"), runs)
    elif runs:
        draw(counted(runs, MAIN), folder / PICTURE, settings=MAIN.settings)
        draw_bends(bends, folder / BENDS)
    for line in wrong:
        print(line)
    return 1 if wrong else 0


def _case(arm: Arm, window: str) -> Case:
    """Without decay there is one case for all arms of an optimiser."""
    return Case(arm.optimizer, "" if window == NONE else arm.coupling, window)


def _table(study: Study, own: Counted, cell: Callable[[Case], str]) -> str:
    lines = [f"| decay | {' | '.join(arm.title for arm in ARMS)} |", "|---|" + "---:|" * len(ARMS)]
    for window in (NONE, *(window for window in WINDOWS if window in study.windows)):
        cells = [cell(_case(arm, window)) if _case(arm, window) in own else "not run" for arm in ARMS]
        lines.append(f"| {window} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _tries(runs: Sequence[Run]) -> str:
    """Held-out accuracy of what was tried with the first seed: a line for each arm of each study."""
    lines = [
        "| setting | | without decay, by rate | with decay all the time, by strength | gain |",
        "|---|---|---|---|---:|",
    ]
    for study in STUDIES:
        own = [run for run in of_study(runs, study) if run.seed == SEEDS[0]]
        rates, strengths = best_rates(own, study), best_strengths(own, study)
        for arm in study.strengths:
            rate, strength = rates.get(arm.optimizer), strengths.get(arm)
            without = {run.rate: run for run in own if run.case == _case(arm, NONE)}
            always = {
                tried: {run.strength: run for run in own if (run.case, run.rate) == (_case(arm, "all"), tried)}
                for tried in sorted(without)
            }
            by_rate = [
                f"at {tried:g}: {_tried(found, strength if tried == rate else None)}"
                for tried, found in always.items()
                if found
            ]
            if rate is not None and strength is not None:
                gain = _percents(always[rate][strength]) - _percents(without[rate])
                cells = (_tried(without, rate), "; ".join(by_rate), f"{gain:+.2f}")
            else:
                cells = ("not run", "not run", "")
            lines.append(f"| {study.title} | {arm.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _tried(found: Mapping[float, Run], taken: float | None) -> str:
    """Accuracies by what was tried, in order; the one taken in bold."""
    texts = []
    for value, run in sorted(found.items()):
        text = f"{value:g}: {'diverged' if run.held_out_accuracy is None else f'{_percents(run):.2f}'}"
        texts.append(f"**{text}**" if value == taken else text)
    return ", ".join(texts)


def _percents(run: Run) -> float:
    return 100 * (run.held_out_accuracy or 0.0)


def _accuracy(own: Counted, case: Case) -> str:
    return _spread(100 * run.test_accuracy for run in own.get(case, ()) if run.test_accuracy is not None)


def _learned(run: Run) -> bool:
    return run.test_accuracy is not None


def _gains(own: Counted, case: Case, accuracy: str = "test_accuracy") -> list[float]:
    """Points of an accuracy over no decay, of the same optimiser and seed."""
    without = {run.seed: getattr(run, accuracy) for run in own.get(Case(case.optimizer, "", NONE), ())}
    pairs = [(getattr(run, accuracy), without.get(run.seed)) for run in own.get(case, ())]
    return [100 * (found - base) for found, base in pairs if found is not None and base is not None]


def _at(part: int, own: Iterable[Run], measure: str) -> list[float]:
    """A measure in a part of the run, the geometric mean over the weights before a normalisation."""
    return [
        math.exp(mean(math.log(run.course[f"{measure}/0.{name}"][part]) for name in INVARIANT))
        for run in own
        if _learned(run)
    ]


def _degrees(part: int, own: Iterable[Run]) -> list[float]:
    return [math.degrees(angle) for angle in _at(part, own, "angular_update")]


def _ratios(own: Counted, arm: Arm, measure: str) -> list[float]:
    """What decay in the first quarter leaves of a measure in the last part at the full rate, over that of no decay."""
    last = MAIN.settings.last_at_full_rate
    early, without = (own.get(_case(arm, window), ()) for window in ("first 25 %", NONE))
    bases = dict(zip((run.seed for run in without if _learned(run)), _at(last, without, measure), strict=True))
    found = dict(zip((run.seed for run in early if _learned(run)), _at(last, early, measure), strict=True))
    return [value / bases[seed] for seed, value in found.items() if seed in bases]


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
    if not found:
        return []
    if row.ours is None:
        return [f"{row.row}: expected.csv has no value of ours; the results give {mean(found):.2f}"]
    if abs(mean(found) - row.ours) > row.tolerance:
        return [f"{row.row}: {mean(found):.2f} lies outside {row.ours:.2f} ± {row.tolerance:.2f}"]
    return []


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
