"""Do the results say what the README says they say?

Rebuilds the README's tables and the pictures from results.jsonl; with --check only compares, and names what is wrong.

    python -m experiments.changing_structure.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import tyro

from experiments.changing_structure.arms import FAMILIES
from experiments.changing_structure.picture import draw, picture_of
from experiments.changing_structure.plan import FULL, ROUNDS
from experiments.changing_structure.results import FOLDER, Run, read_runs
from experiments.changing_structure.tables import (
    NOT_RUN,
    decoupled_table,
    finals_table,
    large_table,
    rates_table,
    screening_table,
)
from experiments.changing_structure.verdict import verdicts
from experiments.machine import described
from experiments.readme import rebuild, report

__all__ = ["main", "render"]


def render(runs: Collection[Run]) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    parts = {"verdict": verdicts(runs)}
    for name, family in FAMILIES.items():
        for length in family.lengths:
            parts[f"{name} {length}"] = _joined(finals_table(runs, name, length))
            parts[f"{name} {length} screening"] = _joined(screening_table(runs, name, length))
    parts |= {
        "decoupled": _joined(decoupled_table(runs)),
        "rates": _joined(rates_table(runs)),
        "large": _joined(large_table(runs)),
        "plan": _joined(_plan(runs)),
    }
    return parts | {"machine": "\n".join(described(run.machine for run in runs)) or NOT_RUN}


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables and the pictures from the results.

    Examples:
        python -m experiments.changing_structure.table
        python -m experiments.changing_structure.table --check

    Args:
        check: change nothing; end with 1 and say what is wrong if the README is not what the results give.
        folder: where README.md and results.jsonl lie.
    """
    runs = read_runs(folder)
    wrong = rebuild(folder / "README.md", render(runs), check=check)
    if runs and not check:
        for family in FAMILIES:
            draw(runs, family, folder / picture_of(family))
    return report(wrong)


def _plan(runs: Collection[Run]) -> Iterator[str]:
    """Of each round, what is planned as far as it is known, and what was made."""
    yield "| round | runs | made | minutes of one core | minutes in all |"
    yield "|---|---:|---:|---:|---:|"
    made = {(run.cell, run.rate, run.seed): run for run in runs}
    for name, jobs in ROUNDS.items():
        keys = [(job.cell, job.rate, job.seed) for job in dict.fromkeys(jobs(runs))]
        own = [made.pop(key) for key in keys if key in made]
        yield f"| {name} | {len(keys) or 'follow from those before'} | {_made(own)} |"
    yield f"| {FULL} | | {_made([run for run in made.values() if run.size == 'large'])} |"
    small = [run for run in runs if run.size == "small"]
    yield f"| all but {FULL} | | {_made(small)} |"


def _made(runs: Collection[Run]) -> str:
    if not runs:
        return f"{NOT_RUN} | | "
    return f"{len(runs)} | {sum(run.cpu_s for run in runs) / 60:.1f} | {sum(run.wall_s for run in runs) / 60:.1f}"


def _joined(lines: Iterable[str]) -> str:
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
