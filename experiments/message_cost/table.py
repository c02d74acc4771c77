"""Do the results say what the README says they say?

Rebuilds the README's table from results.jsonl; with --check only compares it.

    python -m experiments.message_cost.table [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import tyro

from experiments.readme import rebuild, report
from experiments.records import read_lines

__all__ = ["main", "newest", "table"]

HERE = Path(__file__).parent


def newest(path: Path) -> list[dict[str, Any]]:
    """The last line of every (ranks, width, stage)."""
    lines = read_lines(path)
    rows = {(line["ranks"], line["width"], line["stage"]): line for line in lines if "crossing_per_step" in line}
    return [rows[key] for key in sorted(rows)]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| ranks | boundary | stage | own work | beside it | a message | beside it, CPU | a message, CPU | raw pair |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        wall, cpu, crossing = row["overhead_us_per_step"], row["overhead_cpu_us_per_step"], row["crossing_per_step"]
        numbers = (row["busy_us_per_step"], wall, wall / crossing, cpu, cpu / crossing, row["raw_pair_us"])
        cells = [str(row["ranks"]), f"{row['activation_bytes'] // 1024} KiB", str(row["stage"])]
        lines.append(f"| {' | '.join(cells + [f'{number:.0f}' for number in numbers])} |")
    return "\n".join(lines)


def main(*, check: bool = False, folder: Path = HERE) -> int:
    """Rebuild the README's table from the results.

    Args:
        check: change nothing; end with 1 if the table differs.
        folder: where README.md and results.jsonl lie.
    """
    wrong = rebuild(folder / "README.md", {"table": table(newest(folder / "results.jsonl"))}, check=check)
    return report(wrong)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
