"""Do the results say what the README says they say?

Rebuilds the README's table from results.jsonl; with --check only compares, and fails if blocks cost too much.

    python -m experiments.block_cost.table [--check]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import tyro

from experiments.readme import rebuild

__all__ = ["MOST", "main", "newest", "render"]

HERE = Path(__file__).parent
MOST = {("row", "update"): 1.10, ("quadrants", "step"): 1.05}
"""Times the same by hand that blocks may cost at every step: (what the cut's name holds, what is timed)."""

Lines: TypeAlias = Sequence[dict[str, Any]]


def newest(path: Path) -> list[dict[str, Any]]:
    """The last line of every optimiser, cut and size."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    last = {(line["optimizer"], line["cut"], line["width"], line["num_samples"]): line for line in lines}
    return list(last.values())


def render(lines: Lines) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    return {"cost": "\n".join(_table(lines)), "machine": "\n".join(_machines(lines)) or "not run"}


def main(*, check: bool = False, folder: Path = HERE) -> int:
    """Rebuild the README's table from the results.

    Args:
        check: change nothing; end with 1 if the table differs or a ratio is above its bound.
        folder: where README.md and results.jsonl lie.
    """
    lines = newest(folder / "results.jsonl")
    wrong = rebuild(folder / "README.md", render(lines), check=check)
    if check:
        wrong += [
            f"{line['optimizer']}, {line['cut']}, width {line['width']}: {part} costs {line[f'{part}_ratio']:.3f} "
            f"times as much as by hand, at most {most} is aimed at"
            for line in lines
            for (cut, part), most in MOST.items()
            if cut in line["cut"] and line[f"{part}_ratio"] > most
        ]
    for text in wrong:
        print(text)
    return 1 if wrong else 0


def _table(lines: Lines) -> Iterator[str]:
    yield "| optimiser | blocks of each weight | width | samples | update, us | by hand = 1 | step, us | by hand = 1 |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for line in lines:
        cells = [line["optimizer"], line["cut"], str(line["width"]), str(line["num_samples"])]
        for part in ("update", "step"):
            cells += [f"{line[f'{part}_us']:,.0f}", f"{line[f'{part}_ratio']:.3f}"]
        yield f"| {' | '.join(cells)} |"
    if not lines:
        yield "| not run |" + " |" * 7


def _machines(lines: Lines) -> Iterator[str]:
    texts = (
        f"* {where['date']}: {where['processor']}, {where['cores']} cores, Python {where['python']}, torch "
        f"{where['torch']}, commit {where['commit']}"
        for where in (line["machine"] for line in lines)
    )
    yield from dict.fromkeys(texts)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
