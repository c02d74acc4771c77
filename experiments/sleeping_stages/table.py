"""Do the results say what the README says they say?

Rebuilds the README's tables and pictures from results.jsonl and spans.jsonl; with --check only compares the tables.

    python -m experiments.sleeping_stages.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import tyro

from experiments.readme import rebuild, report
from experiments.records import read_lines
from experiments.sleeping_stages.cases import DECOUPLED, PAUSE_S, SLOW
from experiments.sleeping_stages.draw import draw

__all__ = ["Row", "main", "read_rows", "render"]

HERE = Path(__file__).parent


Key: TypeAlias = tuple[int, str, str]
"""(ranks, group, method)."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A case's medians over the repeats of its newest run."""

    period_ms: float
    own_ms: float
    """Of the slowest stage."""
    utilisation: float
    """Share of the time in which a stage works, mean over the stages."""
    pause: list[dict[str, Any]]
    """Per stage, of the median repeat."""
    predicted: dict[str, Any] | None
    machine: str
    """What it was measured on."""

    @property
    def ratio(self) -> float:
        """Time per microbatch over the slowest stage's own."""
        return self.period_ms / self.own_ms


def read_rows(path: Path) -> dict[Key, Row]:
    """Every case that was measured; none if there is no such file yet."""
    measured: dict[Key, list[dict[str, Any]]] = {}
    predicted: dict[Key, dict[str, Any]] = {}
    for line in read_lines(path):
        key = (line["ranks"], line["group"], line["method"])
        if "predicted" in line:
            predicted[key] = line
            continue
        if measured.get(key, [line])[0]["run"] != line["run"]:
            measured[key] = []
        measured.setdefault(key, []).append(line)
    return {key: _row(lines, predicted.get(key)) for key, lines in measured.items()}


def render(rows: Mapping[Key, Row]) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    return {
        "claims": "\n".join(_claims(rows)),
        "equal": "\n".join(_equal(rows)),
        "predicted": "\n".join(_predicted(rows)),
        "slow": "\n".join(_slow(rows)),
        "paused": "\n".join(_paused(rows)),
        "machine": "\n".join(f"* {text}" for text in dict.fromkeys(row.machine for row in rows.values())),
    }


def main(*, check: bool = False, folder: Path = HERE) -> int:
    """Rebuild the README's tables and the pictures from the results.

    Args:
        check: change nothing; end with 1 if a table differs.
        folder: where README.md, results.jsonl and spans.jsonl lie.
    """
    rows = read_rows(folder / "results.jsonl")
    wrong = rebuild(folder / "README.md", render(rows), check=check)
    if rows and not check:
        bars = {(ranks, method): row.ratio for (ranks, group, method), row in rows.items() if group == "equal"}
        draw(folder / "spans.jsonl", bars, folder)
    return report(wrong)


def _row(lines: Sequence[dict[str, Any]], predicted: dict[str, Any] | None) -> Row:
    ordered = sorted(lines, key=lambda line: line["period_ms"])
    middle = ordered[len(ordered) // 2]
    same_run = predicted is not None and predicted["run"] == middle["run"]
    return Row(
        period_ms=median(line["period_ms"] for line in lines),
        own_ms=median(max(line["own_ms"]) for line in lines),
        utilisation=median(sum(line["own_ms"]) / len(line["own_ms"]) / line["period_ms"] for line in lines),
        pause=middle["pause"],
        predicted=predicted["predicted"] if predicted is not None and same_run else None,
        machine=(
            f"{middle['date']}: {middle['processor']}, {middle['cores']} cores, Python {middle['python']}, "
            f"torch {middle['torch']}, commit {middle['commit']}"
        ),
    )


def _claims(rows: Mapping[Key, Row]) -> Iterator[str]:
    yield "| claim | stages | aim | found |"
    yield "| :--- | ---: | ---: | ---: |"
    for ranks in sorted({key[0] for key in rows}):
        for claim, aim, found in _claims_of({key: row for key, row in rows.items() if key[0] == ranks}, ranks):
            yield f"| {claim} | {ranks} | {aim} | {found} |"


def _claims_of(rows: Mapping[Key, Row], ranks: int) -> Iterator[tuple[str, str, str]]:
    """Claim, aim and what was found, of so many stages."""
    if row := rows.get((ranks, "equal", DECOUPLED)):
        yield "decoupled, no syncs: time per microbatch over the slowest stage's own", "1.05", f"{row.ratio:.3f}"
    if row := rows.get((ranks, "slow", DECOUPLED)):
        yield f"one stage {SLOW} times slower: it is busy", "95 %", f"{1 / row.ratio:.1%}"
    if beyond := [_beyond_bound_s(row) for row in rows.values() if row.pause and row.predicted]:
        yield f"a pause of {PAUSE_S:.0f} s: lost beyond what the bound forces, at most", "0 s", f"{max(beyond):.2f} s"
    told = (ranks, "equal", DECOUPLED)  # what it says of this one, it was told
    others = [row for key, row in rows.items() if key != told]
    if off := [abs(row.period_ms / row.predicted["period_ms"] - 1.0) for row in others if row.predicted]:
        yield "time per microbatch, measured against predicted: off by at most", "5 %", f"{max(off):.1%}"


def _beyond_bound_s(row: Row) -> float:
    """What the stage that lost most beyond the simulator's loss lost beyond it."""
    assert row.predicted is not None
    pairs = zip(row.pause, row.predicted["pause"], strict=True)
    return max(max(measured["lost_s"] - forced["lost_s"], 0.0) for measured, forced in pairs)


def _of(rows: Mapping[Key, Row], group: str) -> tuple[list[int], list[str]]:
    """The numbers of ranks and the methods of a group: torch's first, each in the order it was run."""
    ranks = sorted({key[0] for key in rows if key[1] == group})
    methods = dict.fromkeys(key[2] for key in rows if key[1] == group)
    return ranks, sorted(methods, key=lambda method: method.startswith("decoupled"))


def _equal(rows: Mapping[Key, Row]) -> Iterator[str]:
    ranks, methods = _of(rows, "equal")
    yield f"| method | {' | '.join(f'{n} stages: ms a microbatch | over own time | stages busy' for n in ranks)} |"
    yield "| :--- |" + " ---: | ---: | ---: |" * len(ranks)
    for method in methods:
        found = [rows.get((n, "equal", method)) for n in ranks]
        cells = [f"{r.period_ms:.1f} | {r.ratio:.2f} | {r.utilisation:.0%}" if r else " | | " for r in found]
        yield f"| {method} | {' | '.join(cells)} |"


def _predicted(rows: Mapping[Key, Row]) -> Iterator[str]:
    yield "| stages | stage times | method | predicted, ms a microbatch | measured | measured over predicted |"
    yield "| ---: | :--- | :--- | ---: | ---: | ---: |"
    for (ranks, group, method), row in sorted(rows.items()):
        if row.predicted is not None:
            predicted_ms = row.predicted["period_ms"]
            numbers = f"{predicted_ms:.2f} | {row.period_ms:.2f} | {row.period_ms / predicted_ms:.3f}"
            yield f"| {ranks} | {group} | {method} | {numbers} |"


def _slow(rows: Mapping[Key, Row]) -> Iterator[str]:
    ranks, methods = _of(rows, "slow")
    yield "| stages | method | ms a microbatch | slowest stage's own | slowest busy | all stages busy |"
    yield "| ---: | :--- | ---: | ---: | ---: | ---: |"
    for n in ranks:
        for method in methods:
            if row := rows.get((n, "slow", method)):
                numbers = f"{row.period_ms:.1f} | {row.own_ms:.1f} | {1 / row.ratio:.1%} | {row.utilisation:.0%}"
                yield f"| {n} | {method} | {numbers} |"


def _paused(rows: Mapping[Key, Row]) -> Iterator[str]:
    ranks, methods = _of(rows, "paused")
    for n in ranks:
        yield f"{n} stages, stage {n // 2} asleep for {PAUSE_S:.0f} s:"
        yield ""
        yield f"| method | | {' | '.join(f'stage {stage}' for stage in range(n))} |"
        yield "| :--- | :--- |" + " ---: |" * n
        for method in methods:
            if row := rows.get((n, "paused", method)):
                yield from _paused_rows(method, row)
        yield ""


def _paused_rows(method: str, row: Row) -> Iterator[str]:
    names = {"forwards": "microbatches begun meanwhile", "busy_s": "s of it at work", "lost_s": "s lost in all"}
    for field, name in names.items():
        cells = [f"{stage[field]:d}" if field == "forwards" else f"{stage[field]:.2f}" for stage in row.pause]
        yield f"| {method if field == 'forwards' else ''} | {name} | {' | '.join(cells)} |"
    if row.predicted is not None:
        forced = [f"{stage['lost_s']:.2f}" for stage in row.predicted["pause"]]
        yield f"| | s lost, predicted | {' | '.join(forced)} |"


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
