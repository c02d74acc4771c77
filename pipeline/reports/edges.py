"""What crossed between the stages?"""

from __future__ import annotations

from typing import Any

from pipeline.reports.groups import Group
from pipeline.reports.numbers import spread
from pipeline.reports.page import Html, folded, join, table, text

__all__ = ["edge_tables"]

_MOST_OPEN = 8


def edge_tables(groups: list[Group]) -> Html:
    """Messages and bytes of each edge, by group; nothing where no run recorded any."""
    parts = []
    for group in groups:
        rows = _rows(group)
        if rows:
            head = ["from", "to", "by", "messages", "MiB", "KiB a message", "times the sender waited"]
            parts.append(
                folded(f"{len(rows)} edges: {group.label}", table(head, rows), is_open=len(rows) <= _MOST_OPEN)
            )
    if not parts:
        return Html("")
    about = (
        "An edge is one direction of a boundary. Headers, payloads and announcements count; in one process nothing "
        "crosses. Runs do not measure how long a message takes; experiments/edges does."
    )
    return join(text(about, soft=True), *parts)


def _rows(group: Group) -> list[list[str]]:
    found: dict[tuple[int, int, str], list[dict[str, Any]]] = {}
    for run in group.runs:
        for edge in run.summary.get("edges") or ():
            kind = f"{edge.get('kind', '-')}{', direct' if edge.get('direct') else ''}"
            found.setdefault((edge.get("sender", -1), edge.get("receiver", -1), kind), []).append(edge)
    rows = []
    for (sender, receiver, kind), edges in sorted(found.items()):
        messages = [float(edge.get("num_messages") or 0) for edge in edges]
        sizes = [float(edge.get("num_bytes") or 0) for edge in edges]
        each = [size / count / 1024 if count else None for size, count in zip(sizes, messages, strict=True)]
        waits = [float(edge.get("num_waits") or 0) for edge in edges]
        mebibytes = [size / 2**20 for size in sizes]
        rows.append(
            [str(sender), str(receiver), kind, spread(messages), spread(mebibytes), spread(each), spread(waits)]
        )
    return rows
