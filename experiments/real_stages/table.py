"""Do the results say what the README says they say?

Rebuilds the README's tables from results.jsonl; with --check only compares.

    python -m experiments.real_stages.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import tyro

from experiments.readme import rebuild, report
from experiments.real_stages.cases import BATCH_SIZE
from experiments.records import read_lines
from experiments.spread import spread

__all__ = ["main", "read", "render"]

HERE = Path(__file__).parent

Lines: TypeAlias = list[dict[str, Any]]

_OURS = "ours, rank 128 synthesizer, an update every 1"
_CLAIMS = (
    (_OURS, "two independent processes, rank 128 synthesizer, an update every 1", 0.85),
    (_OURS, "Schedule1F1B, an update every 8", 1.0),
    (_OURS, "Schedule1F1B, an update every 2", 1.25),
    ("ours, rank 128 synthesizer, an update every 8", "Schedule1F1B, an update every 8", None),
    (
        "ours, full rank synthesizer, an update every 1",
        "two independent processes, full rank synthesizer, an update every 1",
        None,
    ),
    ("ours, full rank synthesizer, an update every 1", "Schedule1F1B, an update every 8", None),
    (_OURS, "one process, backprop, an update every 1", None),
)
"""(ours, beside what, how many times its throughput is aimed at)."""


_BESIDE = ("beside_ms", "waited_ms", "period_ms", "side_threads_ms")


def read(path: Path, part: str) -> Lines:
    """The lines of the newest run that measured `part`; none if nobody has."""
    lines = [line for line in read_lines(path) if line["part"] == part]
    return [line for line in lines if line["run"] == lines[-1]["run"]]


def render(path: Path) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    timed = read(path, "time")
    return {
        "aims": "\n".join(_aims(timed)),
        "time": "\n".join(_time(timed)),
        "inside": "\n".join(_inside(timed)),
        "memory": "\n".join(_memory(read(path, "memory"))),
        "learning": "\n".join(_learning(read(path, "learning"))),
        "machine": "\n".join(_machines([line for part in ("time", "memory", "learning") for line in read(path, part)])),
    }


def main(*, check: bool = False, folder: Path = HERE) -> int:
    """Rebuild the README's tables from the results.

    Args:
        check: change nothing; end with 1 if a table differs.
        folder: where README.md and results.jsonl lie.
    """
    wrong = rebuild(folder / "README.md", render(folder / "results.jsonl"), check=check)
    return report(wrong)


def _allocators(lines: Lines) -> list[str]:
    return list(dict.fromkeys(line["allocator"] for line in lines))


def _periods(lines: Lines, allocator: str, case: str) -> dict[int, float]:
    """The slower rank's time per microbatch, by repeat."""
    return {
        line["repeat"]: max(rank["period_ms"] for rank in line["ranks"])
        for line in lines
        if line["allocator"] == allocator and line["case"] == case
    }


def _aims(lines: Lines) -> Iterator[str]:
    """Throughputs are compared within each round, and the median of the rounds is shown."""
    allocators = _allocators(lines)
    yield f"| throughput of | over that of | aim | {' | '.join(f'{name} allocator' for name in allocators)} |"
    yield "| :--- | :--- | ---: |" + " ---: |" * len(allocators)
    for ours, other, aim in _CLAIMS:
        cells = []
        for allocator in allocators:
            own, others = _periods(lines, allocator, ours), _periods(lines, allocator, other)
            ratios = sorted(others[repeat] / own[repeat] for repeat in own.keys() & others.keys())
            cells.append(f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if ratios else "")
        yield f"| {ours} | {other} | {'' if aim is None else f'{aim:.2f}'} | {' | '.join(cells)} |"


def _time(lines: Lines) -> Iterator[str]:
    allocators = _allocators(lines)
    yield f"| | {' | '.join(f'{name} allocator: ms a microbatch | samples/s' for name in allocators)} |"
    yield "| :--- |" + " ---: | ---: |" * len(allocators)
    for case in dict.fromkeys(line["case"] for line in lines):
        cells = []
        for allocator in allocators:
            found = list(_periods(lines, allocator, case).values())
            cells.append(f"{median(found):.2f} | {BATCH_SIZE * 1000 / median(found):.0f}" if found else " | ")
        yield f"| {case} | {' | '.join(cells)} |"


def _inside(lines: Lines) -> Iterator[str]:
    names = {"F": "forward", "B": "estimate, backward", "L": "source learns", "U": "update"}
    yield f"| allocator | | stage | {' | '.join(names.values())} | beside them | waiting | together | other threads |"
    yield "| :--- | :--- | ---: |" + " ---: |" * (len(names) + 4)
    for allocator in _allocators(lines):
        for case in dict.fromkeys(line["case"] for line in lines if line["kind"] == "ours"):
            own = [line["ranks"] for line in lines if line["allocator"] == allocator and line["case"] == case]
            for stage in range(2):
                ranks = [found[stage] for found in own]
                parts = [median(rank["operations"].get(name, 0.0) for rank in ranks) for name in names]
                parts += [median(rank[name] for rank in ranks) for name in _BESIDE]
                yield f"| {allocator} | {case} | {stage} | {' | '.join(f'{part:.2f}' for part in parts)} |"


def _memory(lines: Lines) -> Iterator[str]:
    yield "| | rank 0: before, MiB | peak | rank 1: before | peak |"
    yield "| :--- | ---: | ---: | ---: | ---: |"
    for line in lines:
        numbers = [rank[name] for rank in line["ranks"] for name in ("before_mib", "peak_mib")]
        yield f"| {line['case']} | {' | '.join(f'{number:.0f}' for number in numbers)} |"


def _learning(lines: Lines) -> Iterator[str]:
    yield "| gradient of stage 0 | microbatches per update | rate | training loss | test error, % | seeds that ended |"
    yield "| :--- | ---: | ---: | ---: | ---: | ---: |"
    keys = dict.fromkeys((line["method"], line["per_update"], line["rate"]) for line in lines)
    for method, per_update, rate in sorted(keys):
        found = [
            line for line in lines if (line["method"], line["per_update"], line["rate"]) == (method, per_update, rate)
        ]
        learned = [line for line in found if line["test_error"] is not None]
        error = _spread([100 * line["test_error"] for line in learned], ".2f")
        loss = _spread([line["train_loss"] for line in learned], ".3f")
        yield f"| {method} | {per_update} | {rate:g} | {loss} | {error} | {len(learned)} of {len(found)} |"


def _machines(lines: Lines) -> Iterator[str]:
    texts = (
        f"* {line['part']}, {line['date']}: {line['processor']}, {line['cores']} cores, Python {line['python']}, "
        f"torch {line['torch']}, commit {line['commit']}"
        for line in lines
    )
    yield from dict.fromkeys(texts)


def _spread(values: Sequence[float], form: str) -> str:
    return spread(values, form) if values else "diverged"


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
