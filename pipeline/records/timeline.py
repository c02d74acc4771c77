"""What did all stages do at the same time? One picture for Perfetto or chrome://tracing, merged from their traces."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.stages.trace import Event

__all__ = ["MOST_EVENTS", "read_trace", "write_timeline"]

_COLORS = {"F": "good", "R": "good", "B": "bad", "L": "yellow", "U": "grey", "I": "olive", "N": "olive", "C": "black"}
_NAMES = {
    "F": "forward",
    "R": "forward again",
    "B": "backward",
    "L": "source learns",
    "U": "update",
    "S": "sync",
    "D": "not learned from",
    "I": "synthetic input",
    "N": "input source learns",
    "C": "change of structure",
}
MOST_EVENTS = 200_000


def write_timeline(run: Path, events: Mapping[int, Sequence[Event]] | None = None) -> Path:
    """Write trace.json in the Chrome trace format, a row per stage; a long run's first events only, and it says so.

    `events` are what `read_trace` has read, if somebody has.
    """
    events = read_trace(run) if events is None else events
    rows: list[dict[str, Any]] = []
    for stage, own in events.items():
        rows.append({"ph": "M", "name": "thread_name", "pid": 0, "tid": stage, "args": {"name": f"stage {stage}"}})
        rows.extend(_row(event, stage) for event in own)
    limits = {"at most this many events of each stage": MOST_EVENTS // max(len(events), 1)}
    path = run / "trace.json"
    path.write_text(json.dumps({"traceEvents": rows, "displayTimeUnit": "ms", "otherData": limits}) + "\n")
    return path


def read_trace(run: Path) -> dict[int, list[Event]]:
    """What each stage did, in order; of a long run the first events of each stage, `MOST_EVENTS` in all."""
    files = sorted((run / "trace").glob("stage-*.jsonl"), key=_stage)
    found = {}
    for file in files:
        stage = _stage(file)
        with file.open() as lines:
            found[stage] = [_event(json.loads(line), stage) for line in islice(lines, MOST_EVENTS // len(files))]
    return found


def _stage(file: Path) -> int:
    return int(file.stem.split("-")[1])


def _event(line: Mapping[str, Any], stage: int) -> Event:
    operation = line["event"][len(str(stage))]
    return Event(operation, line["step"], line["start_s"], line["end_s"], line["version"], line["reach"])


def _row(event: Event, stage: int) -> dict[str, Any]:
    row = {
        "name": event.name(stage),
        "cat": _NAMES[event.operation],
        "ts": event.start_s * 1e6,
        "pid": 0,
        "tid": stage,
        "args": {"step": event.step, "version": event.version, "reach": event.reach},
    }
    if event.operation in _COLORS:
        duration = (event.end_s - event.start_s) * 1e6
        return row | {"ph": "X", "dur": duration, "cname": _COLORS[event.operation]}
    return row | {"ph": "i", "s": "t"}
