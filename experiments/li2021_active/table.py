"""Do the results say what the README says they say?

Rebuilds the README's tables and the picture from results.jsonl; with --check only compares, and names what is wrong.

    python -m experiments.li2021_active.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TypeAlias

import tyro

from experiments.li2021_active.config import FULL, NUM_LAYERS, SETS, SETTINGS, UNITS, WIDTHS
from experiments.li2021_active.picture import PICTURE, draw
from experiments.li2021_active.results import FOLDER, Expected, Run, read_expected, read_runs
from experiments.readme import rebuild

__all__ = ["failures", "main", "measured", "render"]

Runs: TypeAlias = Mapping[int, Sequence[Run]]
LOCATED = 0.01
"""Share of the parameters that counts as active in the tables of where they are."""
_TITLES = {
    "active": "active",
    "lazy": "lazy",
    "random": "random",
    "random_in_layers": "random, as many in each layer",
}


def render(runs: Runs) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    return {
        "networks": _networks(runs),
        "shares": _located(runs, _shares, whole=_sizes),
        "densities": _located(runs, _densities, whole=lambda run: [100 * LOCATED] * NUM_LAYERS),
        "resets": _resets(runs),
        "units": _units(runs),
        "machine": "\n".join(_machines(runs)) or "not run",
    }


def measured(runs: Runs) -> dict[str, list[float]]:
    """What expected.csv is about: a value per seed, by row."""
    found = {}
    for width, own in runs.items():
        found[f"bottom_share_{width}"] = [_shares(run, "absolute")[0] for run in own]
        found[f"bottom_density_{width}"] = [_densities(run, "absolute")[0] for run in own]
        for which in SETS:
            if lost := _lost(own, which, unit="absolute", share=SETTINGS.retrained_share):
                found[f"lost_{which}_{width}"] = lost
                found[f"retrained_{which}_{width}"] = _lost_for_good(own, which)
    return found


def failures(expected: Mapping[str, Expected], runs: Runs) -> list[str]:
    """What of the expectations does not hold, row by row; nothing is missing as long as there is no result."""
    found = measured(runs)
    return [line for row in expected.values() for line in _row_failures(row, found.get(row.row, ()))] if runs else []


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
        draw(runs, folder / PICTURE)
    for line in wrong:
        print(line)
    return 1 if wrong else 0


def _networks(runs: Runs) -> str:
    shares = [_percent(share) for share in SETTINGS.shares]
    lines = [
        f"| width | parameters | initial | trained | trained on | {' | '.join(shares)} | seeds |",
        "|---|---:|---:|---:|---:|" + "---:|" * (len(shares) + 1),
    ]
    for width in (*WIDTHS, *FULL):
        own = runs.get(width, ())
        if not own:
            lines.append(f"| {width} | not run |" + " |" * (len(shares) + 4))
            continue
        accuracies = [
            _spread(100 * value for value in values)
            for values in (
                [run.initial_accuracy for run in own],
                [run.test_accuracy for run in own],
                [run.longer_accuracy for run in own],
            )
        ]
        moved = [f"{100 * mean(run.moved[i] for run in own):.0f} %" for i in range(len(shares))]
        cells = (f"{sum(own[-1].layer_sizes):,}", *accuracies, *moved, str(len(own)))
        lines.append(f"| {width} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _located(runs: Runs, values: Callable[[Run, str], list[float]], *, whole: Callable[[Run], list[float]]) -> str:
    """Where the active parameters are, by layer; `whole` is what they would be if they lay anywhere."""
    lines = [f"| width | by | {' | '.join(f'layer {i + 1}' for i in range(NUM_LAYERS))} |"]
    lines.append("|---|---|" + "---:|" * NUM_LAYERS)
    for width in (*WIDTHS, *FULL):
        own = runs.get(width, ())
        if not own:
            lines.append(f"| {width} | not run |" + " |" * NUM_LAYERS)
            continue
        anywhere = " | ".join(f"{value:.1f}" for value in whole(own[-1]))
        lines.append(f"| {width} | (anywhere) | {anywhere} |")
        for unit in UNITS:
            columns = zip(*(values(run, unit) for run in own), strict=True)
            lines.append(f"| {width} | {unit} | {' | '.join(_spread(column, '.1f') for column in columns)} |")
    return "\n".join(lines)


def _shares(run: Run, unit: str) -> list[float]:
    """Of the active parameters, the part in each layer, in percent."""
    active = run.num_active[unit][SETTINGS.shares.index(LOCATED)]
    return [100 * count / sum(active) for count in active]


def _sizes(run: Run) -> list[float]:
    """Of all parameters, the part in each layer, in percent."""
    return [100 * size / sum(run.layer_sizes) for size in run.layer_sizes]


def _densities(run: Run, unit: str) -> list[float]:
    """Of each layer, the part that is active, in percent."""
    active = run.num_active[unit][SETTINGS.shares.index(LOCATED)]
    return [100 * count / size for count, size in zip(active, run.layer_sizes, strict=True)]


def _resets(runs: Runs) -> str:
    shares = SETTINGS.reset_shares
    retrained = _percent(SETTINGS.retrained_share)
    lines = [f"| width | put back | {' | '.join(map(_percent, shares))} | {retrained}, retrained |"]
    lines.append("|---|---|" + "---:|" * (len(shares) + 1))
    for width in (*WIDTHS, *FULL):
        own = runs.get(width, ())
        if not own:
            lines.append(f"| {width} | not run |" + " |" * (len(shares) + 1))
            continue
        for which in SETS:
            cells = [_spread(_lost(own, which, unit="absolute", share=share)) for share in shares]
            lines.append(
                f"| {width} | {_TITLES[which]} | {' | '.join(cells)} | {_spread(_lost_for_good(own, which))} |"
            )
    return "\n".join(lines)


def _units(runs: Runs) -> str:
    lines = [f"| width | put back | {' | '.join(UNITS)} |", "|---|---|" + "---:|" * len(UNITS)]
    for width, own in runs.items():
        for which in SETS:
            if which != "random":
                lost = [_lost(own, which, unit=unit, share=SETTINGS.retrained_share) for unit in UNITS]
                lines.append(f"| {width} | {_TITLES[which]} | {' | '.join(map(_spread, lost))} |")
    return "\n".join(lines)


def _lost(own: Iterable[Run], which: str, *, unit: str, share: float) -> list[float]:
    """Points of test accuracy that putting a set back has cost, without retraining, a value per seed."""
    pairs = [(run, run.reset(which, unit=unit, share=share)) for run in own]
    return [100 * (run.test_accuracy - found.test_accuracy) for run, found in pairs if found is not None]


def _lost_for_good(own: Iterable[Run], which: str) -> list[float]:
    """Points that it has cost after retraining, against the network trained on as long with nothing put back."""
    pairs = [(run, run.reset(which, unit="absolute", share=SETTINGS.retrained_share)) for run in own]
    return [
        100 * (run.longer_accuracy - found.retrained_accuracy)
        for run, found in pairs
        if found is not None and found.retrained_accuracy is not None
    ]


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _spread(values: Iterable[float], digits: str = ".2f") -> str:
    """Mean and standard deviation over the seeds."""
    found = list(values)
    if not found:
        return "not run"
    text = f"{mean(found):{digits}}"
    return f"{text} ± {stdev(found):{digits}}" if len(found) > 1 else text


def _machines(runs: Runs) -> list[str]:
    texts = (
        f"* {found['date']}: {found['processor']}, {found['cores']} cores, Python {found['python']}, "
        f"torch {found['torch']}, commit {found['commit']}"
        for own in runs.values()
        for found in (run.machine for run in own)
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
