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
    rows = {(line["ranks"], line["width"], line["stage"]): line for line in lines}
    return [rows[key] for key in sorted(rows)]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| ranks | boundary | stage | own work, us/step | beside it, us/step | us/message | raw pair, us | torch |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        cells = (
            str(row["ranks"]),
            f"{row['activation_bytes'] // 1024} KiB",
            str(row["stage"]),
            f"{row['busy_us_per_step']:.0f}",
            f"{row['overhead_us_per_step']:.0f}",
            f"{row['overhead_us_per_message']:.0f}",
            f"{row['raw_pair_us']:.0f}",
            row["torch"],
        )
        lines.append(f"| {' | '.join(cells)} |")
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
