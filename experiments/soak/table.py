"""Do the results say what the README says they say?

Rebuilds the README's table and picture from results.jsonl; with --check only compares the table.

    python -m experiments.soak.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import tyro

from experiments.readme import rebuild, report
from experiments.records import read_lines

__all__ = ["main", "newest", "render"]

HERE = Path(__file__).parent
_FLAT_MIB = 2.0
"""Memory that is called flat grows by less than this from the end of the warm-up to the end of the run."""

Line: TypeAlias = Mapping[str, Any]


def newest(path: Path) -> Sequence[Line]:
    """The lines of the last run, one per rank."""
    lines = read_lines(path)
    return lines[-lines[-1]["ranks"] :] if lines else []


def render(lines: Sequence[Line]) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    return {
        "claims": "\n".join(_claims(lines)),
        "ranks": "\n".join(_ranks(lines)),
        "machine": "\n".join(f"* {text}" for text in dict.fromkeys(map(_machine, lines))),
    }


def main(check: bool = False) -> int:
    """Rebuild the README's generated parts and the picture.

    Args:
        check: change nothing; fail if a part differs.
    """
    lines = newest(HERE / "results.jsonl")
    wrong = rebuild(HERE / "README.md", render(lines), check=check)
    if lines and not check:
        _draw(lines, HERE / "memory.png")
    return report(wrong)


def _claims(lines: Sequence[Line]) -> Iterator[str]:
    if not lines:
        return
    grown = [line["rss_end_mib"] - line["rss_warm_mib"] for line in lines]
    yield (
        f"* Memory is flat after the warm-up: {_yes(max(grown) < _FLAT_MIB)}; over {lines[0]['messages']:,} messages "
        f"the worst rank grew by {max(grown):.2f} MiB, from {lines[0]['rss_warm_mib']:.0f}."
    )
    for name, words in (("threads", "thread"), ("descriptors", "descriptor"), ("segments", "shared-memory segment")):
        leaked = sum(line[name][3] - line[name][0] for line in lines)
        steady = all(line[name][1] == line[name][2] for line in lines)
        yield f"* No {words} is leaked: {_yes(leaked == 0 and steady)}; {leaked} more after the run than before it."


def _ranks(lines: Sequence[Line]) -> Iterator[str]:
    yield "| rank | MiB after warm-up | MiB at the end | threads | descriptors | segments |"
    yield "| ---: | ---: | ---: | :--- | :--- | :--- |"
    for line in sorted(lines, key=lambda line: int(line["rank"])):
        counts = [" / ".join(map(str, line[name])) for name in ("threads", "descriptors", "segments")]
        memory = f"{line['rss_warm_mib']:.1f} | {line['rss_end_mib']:.1f}"
        yield f"| {line['rank']} | {memory} | {' | '.join(counts)} |"
    if lines:
        line = lines[0]
        yield ""
        yield f"{line['steps']:,} steps in {line['wall_s']:.0f} s: {line['messages'] / line['wall_s']:,.0f} messages/s."


def _draw(lines: Sequence[Line], path: Path) -> None:
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.2), layout="constrained")
    for line in lines:
        axes.plot(*zip(*line["rss_mib"], strict=True), label=f"rank {line['rank']}")
    axes.set(xlabel="seconds", ylabel="resident memory, MiB", ylim=(0, None))
    axes.legend(ncols=4, loc="lower right")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _yes(value: bool) -> str:
    return "**yes**" if value else "**no**"


def _machine(line: Line) -> str:
    return (
        f"{line['processor']}, {line['cores']} cores, Python {line['python']}, torch {line['torch']}, "
        f"commit {line['commit'][:9]}{'+changes' if '+' in line['commit'] else ''}, {line['date']}"
    )


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
