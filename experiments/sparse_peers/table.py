"""Do the results say what the README says they say?

Rebuilds the README's tables and the picture from results.jsonl and times.jsonl; with --check only compares, and names
what is wrong.

    python -m experiments.sparse_peers.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import tyro

from experiments.machine import described
from experiments.readme import rebuild, report
from experiments.sparse_peers.claims import claims_table
from experiments.sparse_peers.picture import PICTURE, draw
from experiments.sparse_peers.results import FOLDER, Run, Timing, counted, read_runs, read_timings
from experiments.sparse_peers.tables import NOT_RUN, parts

__all__ = ["main", "render"]


def render(runs: Collection[Run], timings: Sequence[Timing]) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    where = described([*(run.machine for run in runs), *(timing.machine for timing in timings)])
    claims = claims_table(counted(runs), timings)
    return {**parts(runs, timings), "claims": "\n".join(claims), "machine": "\n".join(where) or NOT_RUN}


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables and the picture from the results.

    Args:
        check: change nothing; end with 1 and say what is wrong if the README is not what the results give.
        folder: where README.md and the results lie.
    """
    runs, timings = read_runs(folder), read_timings(folder)
    wrong = rebuild(folder / "README.md", render(runs, timings), check=check)
    if runs and timings and not check:
        draw(runs, timings, folder / PICTURE)
    return report(wrong)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
