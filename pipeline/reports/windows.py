"""What did all stages of a run do around a certain step? A window of its trace, read without reading the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.records.picture import choose_rows
from pipeline.reports.reading import Run, stage_files
from pipeline.stages.trace import Event

__all__ = ["find_first", "read_window"]

_MOST_LINES = 4_000
"""Of one stage in one window."""
_SLACK_STEPS = 48
"""Steps by which a line of a trace may stand later than a line of a later step."""
_MOST_SEARCHED = 20_000


def read_window(run: Run, *, first: int, last: int) -> dict[int, list[Event]]:
    """The events of the steps `first` to `last` of the stages to be drawn (all, or some of very many)."""
    files = dict(stage_files(run.folder / "trace"))
    rows = [stage for stage in choose_rows(max(files) + 1) if stage in files] if files else []
    return {stage: _of_steps(files[stage], stage, first=first, last=last) for stage in rows}


def find_first(run: Run, operations: Sequence[str], *, stage: int, after: int) -> int | None:
    """The first step after `after` at which a stage did one of some operations, if that is not too far."""
    path = dict(stage_files(run.folder / "trace")).get(stage)
    if path is None:
        return None
    for number, event in enumerate(_events(path, stage, since=after + 1)):
        if event.operation in operations and event.step > after:
            return event.step
        if number == _MOST_SEARCHED:
            break
    return None


def _of_steps(path: Path, stage: int, *, first: int, last: int) -> list[Event]:
    found: list[Event] = []
    for event in _events(path, stage, since=first):
        if event.step > last + _SLACK_STEPS or len(found) == _MOST_LINES:
            break
        if first <= event.step <= last:
            found.append(event)
    return found


def _events(path: Path, stage: int, *, since: int) -> Iterator[Event]:
    """From a little before a step on; lines that are damaged, or not whole yet, are left out."""
    with path.open("rb") as file:
        file.seek(_place_of(path, max(since - _SLACK_STEPS, 0)))
        for line in file:
            event = _parse(line, stage)
            if event is not None:
                yield event


def _place_of(path: Path, step: int) -> int:
    """Where the first line of a step is, about: traces go by steps, so halving finds it."""
    low, high = 0, path.stat().st_size
    with path.open("rb") as file:
        while high - low > 4096:
            middle = (low + high) // 2
            file.seek(middle)
            file.readline()
            found = _step_of(file.readline())
            if found is None or found >= step:
                high = middle
            else:
                low = middle
        file.seek(low)
        if low:
            file.readline()
        return file.tell()


def _step_of(line: bytes) -> int | None:
    event = _parse(line, 0)
    return None if event is None else event.step


def _parse(line: bytes, stage: int) -> Event | None:
    try:
        content = json.loads(line)
        return Event(
            operation=content["event"][len(str(stage))],
            step=int(content["step"]),
            start_s=float(content["start_s"]),
            end_s=float(content["end_s"]),
            version=int(content["version"]),
            reach=int(content["reach"]),
        )
    except (ValueError, KeyError, TypeError, IndexError):
        return None
