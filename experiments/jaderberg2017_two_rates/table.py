"""Do the results say what the README says they say?

Rebuilds the README's tables from results.jsonl; with --check only compares, and names what is wrong.

    python -m experiments.jaderberg2017_two_rates.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TypeAlias

import tyro

from experiments.jaderberg2017_two_rates.config import LATENCIES, METHODS
from experiments.jaderberg2017_two_rates.results import FOLDER, Run, counted, read_runs
from experiments.machine import described
from experiments.readme import rebuild, report
from experiments.spread import spread

__all__ = ["failures", "main", "render"]

Counted: TypeAlias = Mapping[str, Sequence[Run]]
_SEEDS = 3


def render(runs: Counted) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    return {
        "errors": "\n".join(_error_rows(runs)),
        "curves": "\n".join(_curve_rows(runs)),
        "time": "\n".join(_time_rows(runs)),
        "machine": "\n".join(sorted(described(run.machine for own in runs.values() for run in own))) or "not run",
    }


def failures(runs: Counted) -> Iterator[str]:
    """Which results are missing; nothing is missing as long as there is none."""
    for name in METHODS if runs else ():
        if (seeds := len(runs.get(name, ()))) < _SEEDS:
            yield f"{name}: needs {_SEEDS} seeds, has {seeds}"


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables from the results.

    Args:
        check: change nothing; end with 1 and say what is wrong if something is.
        folder: where README.md and results.jsonl lie.
    """
    runs = counted(read_runs(folder / "results.jsonl"))
    wrong = rebuild(folder / "README.md", render(runs), check=check)
    if check:
        wrong += failures(runs)
    return report(wrong)


def _error_rows(runs: Counted) -> Iterator[str]:
    yield "| the fast network learns from | odd digits, fast | threes, slow | parameters of the synthesizer |"
    yield "|---|---:|---:|---:|"
    for name, method in METHODS.items():
        if not (own := runs.get(name)):
            yield f"| {method.title} | not run | not run | not run |"
            continue
        last = [run.errors[-1] for run in own]
        fast, slow = (spread([getattr(each, who) for each in last], ".3f") for who in ("fast", "slow"))
        yield f"| {method.title} | {fast} | {slow} | {own[-1].synthesizer_parameters:,} |"
    for guess in [own[-1].guess for own in runs.values()][:1]:
        yield f"| (the most frequent count) | {guess.fast:.3f} | {guess.slow:.3f} | |"


def _curve_rows(runs: Counted) -> Iterator[str]:
    """The slow network's errors on the way, at the steps that all runs looked at."""
    steps = sorted({each.step for own in runs.values() for run in own for each in run.errors})
    yield f"| digits of a stream | {' | '.join(map(str, steps)) or 'not run'} |"
    yield "|---|" + "---:|" * max(len(steps), 1)
    for name, method in METHODS.items():
        cells = []
        for step in steps:
            found = [each.slow for run in runs.get(name, ()) for each in run.errors if each.step == step]
            cells.append(f"{mean(found):.3f}" if found else "-")
        yield f"| {method.title} | {' | '.join(cells) or 'not run'} |"


def _time_rows(runs: Counted) -> Iterator[str]:
    latencies = [f"{latency:g}" for latency in LATENCIES]
    yield f"| latency of a message | {' | '.join(latencies)} |"
    yield "|---|" + "---:|" * len(latencies)
    for name, method in METHODS.items():
        own = runs.get(name)
        cells = [f"{own[-1].digit_s[each]:.2f}" if own else "not run" for each in latencies]
        yield f"| {method.title} | {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
