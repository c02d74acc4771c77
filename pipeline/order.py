"""In which order did a stage handle messages? A line per message, which is all that a replay needs.

`A0` an activation of step 0, `G0` its gradient, `X0` an activation that was dropped, `E0` one of an evaluation, `D8` a
drain before step 8 (`s`: it saves, `f`: it finishes the run), `Z8` the stop.
"""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

__all__ = ["open_order", "read_order"]


def open_order(run: Path, stage: int, *, since: int) -> TextIO:
    """Open a stage's record for appending; a resumed run goes on right after the drain it was saved at."""
    path = _path(run, stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = _until_saved(read_order(run, stage), since) if since else []
    file = path.open("w")
    file.writelines(f"{message}\n" for message in kept)
    file.flush()
    return file


def read_order(run: Path, stage: int) -> list[str]:
    """The messages a stage handled; a half-written last line is left out. Empty if nothing was recorded."""
    path = _path(run, stage)
    if not path.exists():
        return []
    return [line.rstrip("\n") for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _until_saved(order: list[str], step: int) -> list[str]:
    for position, message in enumerate(order):
        if message in (f"D{step}s", f"D{step}sf"):
            return order[: position + 1]
    return []


def _path(run: Path, stage: int) -> Path:
    return run / "order" / f"stage-{stage}.txt"
