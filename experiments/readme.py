"""Does a README hold the tables that its results give?

A generated part stands between the lines `<!-- NAME: begin -->` and `<!-- NAME: end -->`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

__all__ = ["rebuild", "report"]


def rebuild(path: Path, parts: Mapping[str, str], *, check: bool) -> list[str]:
    """Write the generated parts into a README, or with `check` change nothing.

    Args:
        path: the README.
        parts: Markdown by the name of its markers.
        check: only compare.

    Returns:
        With `check`, what differs: one line each.

    Raises:
        ValueError: a marker is missing.
    """
    text = path.read_text()
    wrong = []
    for name, part in parts.items():
        placed = _placed(text, name, part.strip())
        if placed != text and check:
            wrong.append(f"{path}: the part {name!r} is not what the results give; run table.py without --check.")
        text = placed
    if not check:
        path.write_text(text)
    return wrong


def report(wrong: Collection[str]) -> int:
    """Print what is wrong, a line each; the exit code, 1 if anything is."""
    for line in wrong:
        print(line)
    return 1 if wrong else 0


def _placed(text: str, name: str, part: str) -> str:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the README must hold the lines {begin!r} and {end!r}, in this order.")
    return f"{before}{begin}\n{part}\n{end}{after}"
