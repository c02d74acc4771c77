"""Do the results say what the README says they say?

Rebuilds the README's tables from results.jsonl and expected.csv; with --check only compares, and names what is wrong.

    python -m experiments.hu2020_sib.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

import tyro

from experiments.expected import Expected, read_expected
from experiments.hu2020_sib.config import ROWS
from experiments.hu2020_sib.results import FOLDER, Run, read_runs
from experiments.machine import described
from experiments.readme import rebuild, report

__all__ = ["accuracy", "failures", "main", "render"]

_CLAIMED = ("1shot_k1", "1shot_k3", "1shot_k5")
"""Rows that must be above K = 0."""

Runs = Mapping[str, Sequence[Run]]


def render(expected: Mapping[str, Expected], runs: Runs) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    return {
        "omniglot": _omniglot(runs),
        "published": _published(expected),
        "machine": "\n".join(sorted(described(run.machine for own in runs.values() for run in own))) or "Not run yet.",
    }


def accuracy(own: Sequence[Run]) -> tuple[float, float]:
    """Mean over seeds in percent, and half of its 95 % confidence interval over tasks, the seeds taken as given."""
    return _pooled([run.accuracy for run in own], [run.half_width for run in own])


def failures(expected: Mapping[str, Expected], runs: Runs) -> Iterator[str]:
    """What of the expectations and of the claim does not hold, row by row."""
    for name in ROWS:
        yield from _row_failures(expected[name], runs.get(name, ()))
    for name in _CLAIMED:
        if own := runs.get(name, ()):
            gain, width = _gain(own)
            if gain - width <= 0:
                yield f"{name}: {gain:+.2f} ± {width:.2f} over K = 0 must be above zero"


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables from the results.

    Args:
        check: change nothing; end with 1 and say what is wrong if something is.
        folder: where README.md, expected.csv and results.jsonl lie.
    """
    expected, runs = read_expected(folder / "expected.csv"), read_runs(folder / "results.jsonl")
    wrong = rebuild(folder / "README.md", render(expected, runs), check=check)
    if not check:
        return 0
    wrong += failures(expected, runs)
    return report(wrong)


def _omniglot(runs: Runs) -> str:
    head = "| shots | K | accuracy % | over K = 0 | between seeds | η | cosine | training loss | training s | seeds |"
    lines = [head, "|---:|---:|---|---|---:|---|---:|---:|---:|---:|"]
    return "\n".join([*lines, *(_line(name, runs.get(name, ())) for name in ROWS)])


def _line(name: str, own: Sequence[Run]) -> str:
    row = ROWS[name]
    if not own:
        return f"| {row.shots} | {row.num_steps} | not run |" + " - |" * 7
    adapts = row.num_steps > 0
    cells = (
        f"{row.shots}",
        f"{row.num_steps}",
        "{:.2f} ± {:.2f}".format(*accuracy(own)),
        "{:+.2f} ± {:.2f}".format(*_gain(own)) if adapts else "-",
        f"{100 * stdev(run.accuracy for run in own):.2f}" if len(own) > 1 else "-",
        ", ".join(f"{run.step_rate:g}" for run in own) if adapts else "-",
        f"{mean(run.cosine for run in own):.2f}" if adapts else "-",
        f"{mean(run.train_loss for run in own):.3f}",
        f"{mean(run.train_s for run in own):.0f}",
        f"{len(own)}",
    )
    return f"| {' | '.join(cells)} |"


def _published(expected: Mapping[str, Expected]) -> str:
    lines = ["| row | what | paper | where | trust | here |", "|---|---|---:|---|---|---|"]
    rows = [row for row in expected.values() if row.paper is not None]
    lines += [f"| {row.row} | {row.metric} | {row.paper:g} | {row.source} | {row.trust} | not run |" for row in rows]
    return "\n".join(lines)


def _row_failures(row: Expected, own: Sequence[Run]) -> Iterator[str]:
    if not own:
        yield f"{row.row}: no result; run it"
        return
    if len(own) < row.seeds:
        yield f"{row.row}: needs {row.seeds} seeds, has {len(own)}"
    yield from row.misses(accuracy(own)[0], digits=2, unit=" %")


def _gain(own: Sequence[Run]) -> tuple[float, float]:
    return _pooled([run.gain for run in own], [run.gain_half_width for run in own])


def _pooled(means: Sequence[float], widths: Sequence[float]) -> tuple[float, float]:
    """Of several equally large samples, in percent: the mean of the means, and its half width."""
    return 100 * mean(means), 100 * sum(width**2 for width in widths) ** 0.5 / len(widths)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
