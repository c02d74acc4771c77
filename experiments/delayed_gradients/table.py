"""Do the results say what the README says they say?

Rebuilds the README's tables from results.jsonl; with --check only compares, and names what is wrong.

    python -m experiments.delayed_gradients.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import tyro

from experiments.delayed_gradients.config import METHODS, STALENESS
from experiments.delayed_gradients.results import FOLDER, Case, Run, counted
from experiments.machine import described
from experiments.readme import rebuild, report
from experiments.records import read_records
from experiments.spread import spread

__all__ = ["failures", "main", "render"]

Counted: TypeAlias = Mapping[Case, Sequence[Run]]
_SEEDS = 3


def render(runs: Counted) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    return {
        "accuracy": _table(runs, _accuracy),
        "memory": _table(runs, lambda own: f"{own[-1].held_bytes / 2**20:.2f}"),
        "rates": _table(runs, lambda own: f"{own[-1].rate:g}"),
        "machine": "\n".join(sorted(described(run.machine for own in runs.values() for run in own))) or "not run",
    }


def failures(runs: Counted) -> Iterator[str]:
    """Which results are missing; nothing is missing as long as there is none."""
    for case in _cases() if runs else ():
        seeds = len(runs.get(case, ()))
        if seeds < _SEEDS:
            yield f"{case[0]} at staleness {case[1]}: needs {_SEEDS} seeds, has {seeds}"


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables from the results.

    Args:
        check: change nothing; end with 1 and say what is wrong if something is.
        folder: where README.md and results.jsonl lie.
    """
    runs = counted(read_records(Run, folder / "results.jsonl"))
    wrong = rebuild(folder / "README.md", render(runs), check=check)
    if check:
        wrong += failures(runs)
    return report(wrong)


def _cases() -> list[Case]:
    return [(name, late) for name, method in METHODS.items() for late in (STALENESS if method.late else (0,))]


def _table(runs: Counted, cell: Callable[[Sequence[Run]], str]) -> str:
    found = {case[1] for case in (*runs, *_cases())}
    columns = sorted(found)
    lines = [f"| | {' | '.join(map(str, columns))} |", "|---|" + "---:|" * len(columns)]
    wanted = set(_cases())
    for name, method in METHODS.items():
        cells = [
            cell(runs[name, late]) if runs.get((name, late)) else "not run" if (name, late) in wanted else ""
            for late in columns
        ]
        lines.append(f"| {method.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _accuracy(own: Sequence[Run]) -> str:
    """Mean and standard deviation over the seeds, in percent."""
    found = [100 * run.test_accuracy for run in own if run.test_accuracy is not None]
    if not found:
        return "diverged"
    text = spread(found, ".2f")
    return text if len(found) == len(own) else f"{text}, {len(own) - len(found)} of {len(own)} diverged"


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
