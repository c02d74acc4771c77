"""Do the results say what the README says they say?

Rebuilds the README's tables from results.jsonl; with --check only compares, and names what is wrong.

    python -m experiments.jaderberg2017_recurrent.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import tyro

from experiments.expected import Expected, read_expected
from experiments.jaderberg2017_recurrent.config import ROWS
from experiments.jaderberg2017_recurrent.results import FOLDER, Run, read_runs
from experiments.readme import rebuild, report
from experiments.spread import spread

__all__ = ["failures", "main", "render"]

_METHODS = {"bptt": "BPTT", "dni": "DNI", "aux": "DNI + Aux"}
_TASKS = {"copy": "Copy", "repeat_copy": "Repeat Copy", "shakespeare": "tiny-shakespeare", "wikitext2": "WikiText-2"}

Runs = Mapping[str, Sequence[Run]]


def render(expected: Mapping[str, Expected], runs: Runs) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    return {
        "copying": _copying(expected, runs),
        "characters": _characters(expected, runs),
        "rows": _rows(expected, runs),
        "machine": "\n".join(f"* {line}" for line in dict.fromkeys(_machine(own[-1]) for own in runs.values())),
    }


def failures(expected: Mapping[str, Expected], runs: Runs) -> list[str]:
    """What of the expectations does not hold, row by row."""
    return [failure for row in expected.values() for failure in _row_failures(row, runs.get(row.row, ()))]


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables from the results.

    Args:
        check: change nothing; end with 1 and name the rows if the README or a tolerance is not met.
        folder: where README.md, expected.csv and results.jsonl lie.
    """
    expected, runs = read_expected(folder / "expected.csv"), read_runs(folder / "results.jsonl")
    wrong = rebuild(folder / "README.md", render(expected, runs), check=check)
    if not check:
        return 0
    wrong += failures(expected, runs)
    return report(wrong)


def _copying(expected: Mapping[str, Expected], runs: Runs) -> str:
    head = [f"{_TASKS[task]}, {title}" for task in ("copy", "repeat_copy") for title in _METHODS.values()]
    lines = [f"| T | {' | '.join(head)} |", "|---|" + "---|" * len(head)]
    for horizon in (2, 3, 4, 5):
        names = [f"{task}_{method}_{horizon}" for task in ("copy", "repeat_copy") for method in _METHODS]
        lines.append(f"| {horizon} | {' | '.join(_cell(expected[name], runs, digits=0) for name in names)} |")
    return "\n".join(lines)


def _characters(expected: Mapping[str, Expected], runs: Runs) -> str:
    lines = ["| method | T | tiny-shakespeare | WikiText-2 | paper, Penn Treebank |", "|---|---|---|---|---|"]
    for row in ROWS.values():
        if row.task == "shakespeare":
            names = (row.name, row.name.replace("shakespeare", "wikitext2"))
            cells = [_value(runs.get(name, ()), digits=3) for name in names]
            paper = _number(expected[row.name].paper, digits=2)
            lines.append(f"| {_METHODS[row.method]} | {row.horizon} | {' | '.join(cells)} | {paper} |")
    return "\n".join(lines)


def _rows(expected: Mapping[str, Expected], runs: Runs) -> str:
    head = "| row | value | seeds | on the way | steps | updates | wall s | parameters | of synthesizers |"
    lines = [head, "|---|" + "---|" * 8]
    for name in expected:
        own = runs.get(name, ())
        if not own:
            lines.append(f"| {name} | not run |" + " - |" * 7)
            continue
        last, digits = own[-1], 0 if "copy" in name else 3
        cells = [name, _value(own, digits=digits), str(len(own)), _on_the_way(last), str(last.steps), str(last.updates)]
        cells += [f"{mean(run.wall_s for run in own):.0f}"]
        cells += [f"{count / 1e3:.0f} k" for count in (last.num_parameters, last.synthesizer_parameters)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _on_the_way(run: Run) -> str:
    if run.valid is not None:
        return f"validation {run.valid:.3f}"
    return f"length {run.trying}" + ("" if run.error is None else f", error {run.error:.2f}")


def _machine(run: Run) -> str:
    return f"{run.machine['processor']}, {run.machine['cores']} cores; torch {run.machine['torch']}"


def _cell(row: Expected, runs: Runs, *, digits: int) -> str:
    return f"{_value(runs.get(row.row, ()), digits=digits)} ({_number(row.paper, digits=0)})"


def _value(own: Sequence[Run], *, digits: int) -> str:
    values = [run.value for run in own]
    if not values:
        return "not run"
    return spread(values, f".{digits if len(values) == 1 else digits or 1}f")


def _number(value: float | None, *, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _row_failures(row: Expected, own: Sequence[Run]) -> list[str]:
    seeds = len({run.seed for run in own})
    if seeds < row.seeds:
        return [f"{row.row}: needs {row.seeds} seeds, has {seeds}; run it"]
    return row.misses(mean(run.value for run in own), digits=3) if own else []


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
