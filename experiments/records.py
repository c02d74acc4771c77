"""How is what was measured written down, and read again? As lines of JSON that are only ever appended to."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["append_line", "append_record", "grouped", "newest", "read_lines", "read_records"]

Record = TypeVar("Record")
Key = TypeVar("Key", bound=Hashable)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All lines of a file, in the order in which they were written; none if there is no file yet."""
    return [json.loads(line) for line in (path.read_text().splitlines() if path.exists() else ())]


def append_line(line: Mapping[str, Any], path: Path) -> None:
    """Write a line down for good."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def read_records(kind: Callable[..., Record], path: Path) -> list[Record]:
    """All records of a file, in the order in which they were written; none if there is no file yet.

    Args:
        kind: what a line is: a dataclass; or a function of its fields, where JSON's lists must become something else.
        path: the file.
    """
    return [kind(**line) for line in read_lines(path)]


def append_record(record: Any, path: Path) -> None:
    """Write a record, an instance of a dataclass, down for good."""
    append_line(asdict(record), path)


def newest(records: Iterable[Record], key: Callable[[Record], Any]) -> list[Record]:
    """The last record of each key, in the order of the keys."""
    last = {key(record): record for record in records}
    return [last[each] for each in sorted(last)]


def grouped(records: Iterable[Record], key: Callable[[Record], Key]) -> dict[Key, list[Record]]:
    """The records by key, each group in the order given."""
    groups: dict[Key, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups
