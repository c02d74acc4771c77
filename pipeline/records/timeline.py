"""What did all stages do at the same time? One picture for Perfetto or chrome://tracing, merged from their traces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["write_timeline"]

_COLORS = {"F": "good", "B": "bad", "L": "yellow", "U": "grey", "I": "olive", "N": "olive", "C": "black"}
_NAMES = {
    "F": "forward",
    "B": "backward",
    "L": "source learns",
    "U": "update",
    "S": "sync",
    "D": "not learned from",
    "I": "synthetic input",
    "N": "input source learns",
    "C": "change of structure",
}
_MOST_EVENTS = 200_000


def write_timeline(run: Path) -> Path:
    """Write trace.json in the Chrome trace format, a row per stage; a long run's first events only, and it says so."""
    files = sorted((run / "trace").glob("stage-*.jsonl"), key=lambda path: int(path.stem.split("-")[1]))
    events: list[dict[str, Any]] = []
    for file in files:
        stage = int(file.stem.split("-")[1])
        events.append({"ph": "M", "name": "thread_name", "pid": 0, "tid": stage, "args": {"name": f"stage {stage}"}})
        events.extend(_rows(file, stage, most=_MOST_EVENTS // len(files)))
    path = run / "trace.json"
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms", "otherData": _limits(files)}) + "\n")
    return path


def _rows(file: Path, stage: int, *, most: int) -> Iterator[dict[str, Any]]:
    with file.open() as lines:
        for number, line in enumerate(lines):
            if number == most:
                return
            event = json.loads(line)
            operation = event["event"][len(str(stage))]
            row = {
                "name": event["event"],
                "cat": _NAMES[operation],
                "ts": event["start_s"] * 1e6,
                "pid": 0,
                "tid": stage,
                "args": {"step": event["step"], "version": event["version"], "reach": event["reach"]},
            }
            if operation in _COLORS:
                duration = (event["end_s"] - event["start_s"]) * 1e6
                yield row | {"ph": "X", "dur": duration, "cname": _COLORS[operation]}
            else:
                yield row | {"ph": "i", "s": "t"}


def _limits(files: list[Path]) -> dict[str, Any]:
    return {"at most this many events of each stage": _MOST_EVENTS // max(len(files), 1)}
