"""Rebuilds the table in README.md from results.jsonl; `--check` fails if it differs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def newest() -> list[dict[str, Any]]:
    """The last line of every (ranks, width, stage)."""
    lines = [json.loads(line) for line in (HERE / "results.jsonl").read_text().splitlines()]
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
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the table, or with `--check` compare it; returns the exit code."""
    readme = HERE / "README.md"
    text = readme.read_text()
    rows = newest()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    rebuilt = before + BEGIN + table(rows) + END + after
    if "--check" not in sys.argv:
        readme.write_text(rebuilt)
        return 0
    if rebuilt != text:
        print(
            "README.md does not hold the table that results.jsonl gives; run: python -m experiments.message_cost.table"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
