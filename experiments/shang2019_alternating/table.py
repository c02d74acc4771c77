"""Do the results say what the README says they say?

Rebuilds the README's tables from results.jsonl; with --check only compares, and names what is wrong.

    python -m experiments.shang2019_alternating.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TypeAlias

import tyro

from experiments.expected import Expected, read_expected
from experiments.machine import described
from experiments.readme import rebuild, report
from experiments.shang2019_alternating.config import ROWS, Row
from experiments.shang2019_alternating.results import FOLDER, Run, read_runs
from experiments.spread import spread

__all__ = ["failures", "main", "render"]

Runs: TypeAlias = Mapping[str, Sequence[Run]]


def render(runs: Runs) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    small = {name: row for name, row in ROWS.items() if not row.full}
    full = {name: row for name, row in ROWS.items() if row.full}
    return {
        "perplexity": _perplexities(small, runs),
        "course": _course(small, runs),
        "cost": _cost(small, runs),
        "full": _perplexities(full, runs),
        "machine": "\n".join(sorted(described(run.machine for own in runs.values() for run in own))) or "not run",
    }


def failures(expected: Mapping[str, Expected], runs: Runs) -> list[str]:
    """What of the expectations does not hold, row by row."""
    return [line for row in expected.values() for line in _row_failures(row, runs.get(row.row, ()))]


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables from the results.

    Args:
        check: change nothing; end with 1 and say what is wrong if the README or a tolerance is not met.
        folder: where README.md, expected.csv and results.jsonl lie.
    """
    runs = read_runs(folder / "results.jsonl")
    wrong = rebuild(folder / "README.md", render(runs), check=check)
    if check:
        wrong += failures(read_expected(folder / "expected.csv"), runs)
    return report(wrong)


def _perplexities(rows: Mapping[str, Row], runs: Runs) -> str:
    lines = ["| | test | validation | test, against real | seeds |", "|---|---:|---:|---:|---:|"]
    for name, row in rows.items():
        own = runs.get(name, ())
        if not own:
            lines.append(f"| {row.title} | not run | | | |")
            continue
        test, valid = (spread([getattr(run, text) for run in own], ".1f") for text in ("test", "valid"))
        lines.append(f"| {row.title} | {test} | {valid} | {_against(own, runs.get(_real(name), ()))} | {len(own)} |")
    return "\n".join(lines)


def _course(rows: Mapping[str, Row], runs: Runs) -> str:
    """Of the rows that were measured: validation perplexity and cosine at the ends of the epochs named."""
    any_settings = next(iter(rows.values())).settings
    ends = [update // any_settings.updates_per_epoch for update in (*any_settings.restarts, any_settings.num_updates)]
    lines = [f"| after epoch | {' | '.join(map(str, ends))} |", "|---|" + "---:|" * len(ends)]
    for name, row in rows.items():
        own = runs.get(name, ())
        if own:
            lines.append(f"| {row.title} | {' | '.join(_columns([run.curve for run in own], '.1f'))} |")
            if own[0].cosines:
                lines.append(f"| - cosine | {' | '.join(_columns([run.cosines for run in own], '.3f'))} |")
    return "\n".join(lines)


def _cost(rows: Mapping[str, Row], runs: Runs) -> str:
    lines = ["| | processor µs per word | parameters | of the synthesizer |", "|---|---:|---:|---:|"]
    for name, row in rows.items():
        own = runs.get(name, ())
        if own:
            us_per_word = spread([1e6 * run.train_cpu_s / run.words for run in own], ".0f")
            numbers = (own[-1].num_parameters, own[-1].synthesizer_parameters)
            lines.append(f"| {row.title} | {us_per_word} | {' | '.join(f'{number:,}' for number in numbers)} |")
    return "\n".join(lines)


def _real(name: str) -> str:
    """The row of real gradients alone, of the same size and with restarts if this one has them."""
    row = ROWS[name]
    return next(
        other
        for other, real in ROWS.items()
        if (real.method, real.whole_span) == ("real", False)
        and (real.restarts, real.settings) == (row.restarts, row.settings)
    )


def _against(own: Sequence[Run], real: Sequence[Run]) -> str:
    """Ratio of perplexities of the same seeds, less one, in percent."""
    of_seed = {run.seed: run.test for run in real}
    ratios = [100 * (run.test / of_seed[run.seed] - 1) for run in own if run.seed in of_seed]
    return f"{spread(ratios, '+.2f')} %" if ratios and own[0].row != real[0].row else ""


def _columns(curves: Sequence[Sequence[tuple[int, float]]], digits: str) -> Iterator[str]:
    for points in zip(*curves, strict=True):
        yield spread([value for _, value in points], digits)


def _row_failures(row: Expected, own: Sequence[Run]) -> list[str]:
    if len(own) < row.seeds:
        return [f"{row.row}: needs {row.seeds} seeds, has {len(own)}; run it"]
    return row.misses(mean(run.test for run in own), digits=1) if own else []


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
