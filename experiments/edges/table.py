"""Do the results say what the README says they say?

Rebuilds the README's tables and the picture from results.jsonl; with --check only compares the tables.

    python -m experiments.edges.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import tyro

from experiments.edges.run import ASLEEP, RAW
from experiments.readme import rebuild, report
from experiments.records import read_lines

__all__ = ["main", "read_rows", "render"]

HERE = Path(__file__).parent
_KINDS = ("in process", "shared", ASLEEP, "gloo", "nccl", RAW)
_UP_TO = 256 << 10
_AIM = 5.0

Rows: TypeAlias = Mapping[tuple[str, int], Mapping[str, Any]]
"""The newest line by (kind, bytes)."""


def read_rows(path: Path) -> Rows:
    """What was measured last of every kind and size."""
    return {(line["kind"], line["bytes"]): line for line in read_lines(path)}


def render(rows: Rows) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    return {
        "claim": "\n".join(_claim(rows)),
        "wall": "\n".join(_table(rows, _wall)),
        "processors": "\n".join(_table(rows, _processors)),
        "machine": "\n".join(f"* {text}" for text in dict.fromkeys(map(_machine, rows.values()))),
    }


def main(*, check: bool = False, folder: Path = HERE) -> int:
    """Rebuild the README's tables and the picture from the results.

    Args:
        check: change nothing; end with 1 if a table differs.
        folder: where README.md and results.jsonl lie.
    """
    rows = read_rows(folder / "results.jsonl")
    wrong = rebuild(folder / "README.md", render(rows), check=check)
    if not check:
        draw(rows, folder / "one_way.png")
    return report(wrong)


def draw(rows: Rows, path: Path) -> None:
    """One-way time against size, a line for each kind, from the 10th to the 90th percentile."""
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for kind in _KINDS:
        sizes = sorted(size for name, size in rows if name == kind)
        low, middle, high = ([rows[kind, size][key] for size in sizes] for key in ("p10_us", "median_us", "p90_us"))
        if sizes:
            axes.plot(sizes, middle, marker="o", label=kind, linestyle="--" if kind == RAW else "-")
            axes.fill_between(sizes, low, high, alpha=0.15)
    axes.set(xscale="log", yscale="log", xlabel="bytes of a message", ylabel="us one way")
    axes.set_xticks(sorted({size for _, size in rows}), [_bytes(size) for size in sorted({size for _, size in rows})])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _claim(rows: Rows) -> Iterator[str]:
    sizes = [size for kind, size in rows if kind == "shared" and size <= _UP_TO]
    yield f"| an edge in shared memory, up to {_bytes(_UP_TO)} | aim | least | {' | '.join(map(_bytes, sizes))} |"
    yield "| :--- | ---: | ---: |" + " ---: |" * len(sizes)
    for kind, aim in (("gloo", f"{_AIM:.0f} times faster"), (RAW, "-")):
        ratios = [rows[kind, size]["median_us"] / rows["shared", size]["median_us"] for size in sizes]
        cells = " | ".join(f"{ratio:.1f}" for ratio in ratios)
        yield f"| beside {_named(kind)} | {aim} | {min(ratios):.1f} times | {cells} |"


def _table(rows: Rows, cell: Any) -> Iterator[str]:
    yield f"| bytes | {' | '.join(map(_named, _KINDS))} |"
    yield "| ---: |" + " ---: |" * len(_KINDS)
    for size in sorted({size for _, size in rows}):
        cells = [cell(rows[kind, size]) if (kind, size) in rows else "not run here" for kind in _KINDS]
        yield f"| {_bytes(size)} | {' | '.join(cells)} |"


def _wall(row: Mapping[str, Any]) -> str:
    return f"**{_us(row['median_us'])}** ({_us(row['p10_us'])} to {_us(row['p90_us'])})"


def _processors(row: Mapping[str, Any]) -> str:
    return _us(row["cpu_us"])


def _us(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _named(kind: str) -> str:
    return f"raw `{kind}`" if kind == RAW else f"edge over {kind}" if kind in ("gloo", "nccl") else f"edge, {kind}"


def _bytes(size: int) -> str:
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


def _machine(row: Mapping[str, Any]) -> str:
    return (
        f"{row['date']}: {row['processor']}, {row['cores']} cores, Python {row['python']}, torch {row['torch']}, "
        f"load {row['load']} at the end, commit {row['commit']}"
    )


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
