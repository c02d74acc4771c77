"""Do the results say what the README says they say?

Rebuilds the README's tables from results.jsonl; with --check only compares, and fails if a change costs too much.

    python -m experiments.structure_cost.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import tyro

from experiments.machine import described
from experiments.readme import rebuild, report
from experiments.records import newest, read_lines
from experiments.structure_cost.kinds import HALF, TENTH

__all__ = ["HERE", "main", "render", "too_much"]

HERE = Path(__file__).parent
_EVENT_MS, _FASTER, _MASKS, _GAP_MS = 200.0, 1.7, 1.05, 20.0
"""Aims: an event takes a stage less; half the channels make a step so many times as fast; masks at most so many
times as long; no other stage stands still for so much longer than without events."""
_NOT_HELD = ("Adam", TENTH, HALF)
"""The optimiser whose steps with masks, and the events, that miss their aims: the README says why."""

Lines: TypeAlias = Sequence[Mapping[str, Any]]


def render(lines: Lines) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    parts = {"events": _events, "others": _others, "halved": _halved, "masks": _masks}
    tables = {name: "\n".join(table(_about(lines, name))) or "not run" for name, table in parts.items()}
    return tables | {"machine": "\n".join(described(line["machine"] for line in lines)) or "not run"}


def too_much(lines: Lines) -> Iterator[str]:
    """What misses its aim, in words."""
    for line in lines:
        name = f"{line['network']}, {line['optimizer']}, {line['batch_size']} samples"
        match line["question"]:
            case "events":
                for kind in line["kinds"]:
                    for stage, took_ms in kind["stages_ms"].items():
                        if took_ms >= _EVENT_MS and kind["kind"] not in _NOT_HELD:
                            yield f"{name}: {kind['kind']} takes stage {stage} {took_ms:.0f} ms, aim < {_EVENT_MS:.0f}"
            case "others":
                if line["largest_gap_ms"] > line["largest_gap_without_ms"] + _GAP_MS:
                    yield f"{name}: another stage stands still for {line['largest_gap_ms']:.0f} ms during an event"
                if line["steps_lost"]:
                    yield f"{name}: {line['steps_lost']} steps are lost"
            case "halved":
                if line["faster"] < _FASTER:
                    yield f"{name}: half the units make a step {line['faster']:.2f} times as fast, aim {_FASTER}"
            case "masks":
                if line["ratio"] > _MASKS and line["optimizer"] not in _NOT_HELD:
                    yield f"{name}: masks make a step {line['ratio']:.3f} times as long, aim {_MASKS}"


def main(*, check: bool = False, folder: Path = HERE) -> int:
    """Rebuild the README's tables from the results.

    Args:
        check: change nothing; end with 1 if a table differs or a cost is above its aim.
        folder: where README.md and results.jsonl lie.
    """
    lines = newest(
        read_lines(folder / "results.jsonl"),
        key=lambda line: (line["question"], line["network"], line["optimizer"], line["batch_size"]),
    )
    wrong = rebuild(folder / "README.md", render(lines), check=check)
    return report([*wrong, *(too_much(lines) if check else ())])


def _about(lines: Lines, question: str) -> list[Mapping[str, Any]]:
    return [line for line in lines if line["question"] == question]


def _events(lines: Lines) -> Iterator[str]:
    """A row for each kind; what a stage takes, and the one above that follows."""
    if not lines:
        return
    yield from _head("event", *(f"{line['network']}, {line['optimizer']}" for line in lines), texts=1)
    kinds = dict.fromkeys(kind["kind"] for line in lines for kind in line["kinds"])
    for name in kinds:
        cells = []
        for line in lines:
            took = [kind["stages_ms"].values() for kind in line["kinds"] if kind["kind"] == name]
            cells.append(" + ".join(f"{value:.0f}" for values in took for value in values))
        yield _row(name, *cells)


def _others(lines: Lines) -> Iterator[str]:
    if lines:
        yield from _head(
            "network",
            *("changes", "one takes, ms", "others: median gap, ms", "largest", "without: median", "largest"),
            "steps lost",
            texts=1,
        )
    for line in lines:
        gaps = ("window_ms", "median_gap_ms", "largest_gap_ms", "median_gap_without_ms", "largest_gap_without_ms")
        yield _row(line["network"], line["events"], *(f"{line[gap]:.1f}" for gap in gaps), line["steps_lost"])


def _halved(lines: Lines) -> Iterator[str]:
    if lines:
        yield from _head("network", "optimiser", "samples", "before, ms", "after, ms", "times as fast", texts=2)
    for line in lines:
        took = f"{line['before_ms']:.1f}", f"{line['after_ms']:.1f}", f"{line['faster']:.2f}"
        yield _row(line["network"], line["optimizer"], line["batch_size"], *took)


def _masks(lines: Lines) -> Iterator[str]:
    if lines:
        yield from _head("network", "optimiser", "samples", "without, ms", "with, ms", "without = 1", texts=2)
    for line in lines:
        took = f"{line['dense_ms']:.1f}", f"{line['masked_ms']:.1f}", f"{line['ratio']:.3f}"
        yield _row(line["network"], line["optimizer"], line["batch_size"], *took)


def _head(*names: str, texts: int) -> Iterator[str]:
    """Names of columns, of which the first hold texts, the others numbers."""
    yield _row(*names)
    yield f"|{'---|' * texts}{'---:|' * (len(names) - texts)}"


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
