"""Do the results say what the README says they say?

Rebuilds the README's table from results.jsonl; with --check only compares, and fails if a source costs too much.

    python -m experiments.source_cost.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import tyro

from experiments.machine import described
from experiments.readme import rebuild, report
from experiments.records import read_lines

__all__ = ["MOST", "main", "newest", "render"]

HERE = Path(__file__).parent
MOST = 1.1
"""Times the same arithmetic by hand that a source's estimate and learning together may cost."""

Lines: TypeAlias = Sequence[dict[str, Any]]


def newest(path: Path) -> list[dict[str, Any]]:
    """The last line of every case, batch and width."""
    last = {(line["case"], line["num_samples"], line["width"]): line for line in read_lines(path)}
    return list(last.values())


def render(lines: Lines) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    return {
        "cost": "\n".join(_table(lines)),
        "machine": "\n".join(described(line["machine"] for line in lines)) or "not run",
    }


def main(*, check: bool = False, folder: Path = HERE) -> int:
    """Rebuild the README's table from the results.

    Args:
        check: change nothing; end with 1 if the table differs or a ratio is above the bound.
        folder: where README.md and results.jsonl lie.
    """
    lines = newest(folder / "results.jsonl")
    wrong = rebuild(folder / "README.md", render(lines), check=check)
    if check:
        wrong += [
            f"{line['case']}, {line['num_samples']} x {line['width']}: costs {line['ratio']:.3f} times the same by "
            f"hand, at most {MOST} is aimed at"
            for line in lines
            if line["ratio"] > MOST
        ]
    return report(wrong)


def _table(lines: Lines) -> Iterator[str]:
    yield (
        "| synthesizer | samples | features | estimate, us | by hand | learn, us | by hand | "
        "ratio of estimate | of learn | of both |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for line in lines:
        times = [line[f"{who}_{part}_us"] for part in ("estimate", "learn") for who in ("ours", "hand")]
        ratios = [line[name] for name in ("estimate_ratio", "learn_ratio", "ratio")]
        cells = [line["case"], str(line["num_samples"]), str(line["width"])]
        cells += [f"{time_us:.0f}" for time_us in times] + [f"{ratio:.2f}" for ratio in ratios]
        yield f"| {' | '.join(cells)} |"
    if not lines:
        yield "| not run |" + " |" * 9


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
