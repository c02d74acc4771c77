"""Do the results say what the README says they say?

Rebuilds the README's tables from results.jsonl and kills.jsonl; with --check only compares them.

    python -m experiments.faults.table [--check]
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import tyro

from experiments.faults.cases import CASES
from experiments.readme import rebuild, report
from experiments.records import read_lines

__all__ = ["main", "newest", "render"]

HERE = Path(__file__).parent
_WITHIN_S = 1.0

Line: TypeAlias = Mapping[str, Any]


def newest(path: Path) -> list[Line]:
    """All lines of a file of results, of the newest commit measured only."""
    lines = read_lines(path)
    return [line for line in lines if line["commit"] == lines[-1]["commit"]]


def render(faults: Sequence[Line], kills: Sequence[Line]) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    return {
        "claims": "\n".join(_claims(faults, kills)),
        "faults": "\n".join(_faults(faults)),
        "kills": "\n".join(_kills(kills)),
        "machine": "\n".join(f"* {text}" for text in dict.fromkeys(map(_machine, [*faults, *kills]))),
    }


def main(check: bool = False) -> int:
    """Rebuild the README's generated parts.

    Args:
        check: change nothing; fail if a part differs.
    """
    parts = render(newest(HERE / "results.jsonl"), newest(HERE / "kills.jsonl"))
    return report(rebuild(HERE / "README.md", parts, check=check))


def _claims(faults: Sequence[Line], kills: Sequence[Line]) -> Iterator[str]:
    if not faults or not kills:
        return
    failing = [line for line in faults if line["names_culprit"] is not None and line["knows_s"]]
    sudden = [line for line in failing if not CASES[line["fault"]].stops]
    slowest_s = max(max(line["knows_s"]) for line in sudden)
    yield _claim(
        f"Every rank knows of a death or an exception within {_WITHIN_S:.0f} s",
        slowest_s <= _WITHIN_S and all(line["all_know"] for line in failing),
        f"the slowest of {len(sudden)} runs took {slowest_s:.2f} s",
    )
    shown = [line["shown_s"] for line in faults if "shown_s" in line]
    yield _claim(
        "A rank that is paused is shown as silent after a second",
        bool(shown) and max(shown) < 2.0,
        f"after {', '.join(f'{seconds:.1f}' for seconds in shown)} s",
    )
    named = sum(bool(line["names_culprit"]) for line in failing)
    yield _claim(
        "The message names the culprit on every rank", named == len(failing), f"in {named} of {len(failing)} runs"
    )
    whole = sum(bool(line["equal"]) for line in faults)
    yield _claim(
        "A run that is resumed ends with the bits of the undisturbed one",
        whole == len(faults),
        f"in {whole} of {len(faults)} runs",
    )
    ended = sum(line["status"] == "finished" for line in kills)
    equal = [line["equal"] for line in kills if line["arrival"] == "fixed"]
    yield _claim(
        "However often and whenever its ranks are killed, a run ends, and in `fixed` order with the same bits",
        ended == len(kills) and all(equal),
        f"{sum(line['num_kills'] for line in kills)} kills in {len(kills)} runs, of which {ended} ended; "
        f"{sum(map(bool, equal))} of {len(equal)} in `fixed` order are equal",
    )


def _claim(what: str, holds: bool, found: str) -> str:
    return f"* {what}: {'**yes**' if holds else '**no**'}; {found}."


def _faults(lines: Sequence[Line]) -> Iterator[str]:
    headings = ("every rank knows after, s (worst)", "names the culprit", "steps lost", "as undisturbed")
    yield f"| fault | executor | runs | {' | '.join(headings)} |"
    yield "| :--- | :--- | ---: | ---: | :--- | ---: | :--- |"
    for case in CASES.values():
        for executor in case.executors:
            found = [line for line in lines if (line["fault"], line["executor"]) == (case.name, executor)]
            if found:
                yield f"| {case.name} | {executor} | {' | '.join(_cells(found))} |"


def _cells(lines: Sequence[Line]) -> list[str]:
    last_s = [max(line["knows_s"]) for line in lines if line["knows_s"]]
    knows = f"{statistics.median(last_s):.3f} ({max(last_s):.3f})" if last_s else "-"
    if "shown_s" in lines[0]:
        knows = f"shown as silent: {statistics.median(line['shown_s'] for line in lines):.1f}"
    named = [line["names_culprit"] for line in lines if line["knows_s"]]
    return [
        str(len(lines)),
        knows,
        "-" if not named else _yes(all(named)),
        f"{statistics.median(line['steps_lost'] for line in lines):.0f}",
        _yes(all(line["equal"] for line in lines)),
    ]


def _kills(lines: Sequence[Line]) -> Iterator[str]:
    headings = ("of them while it trained", "s to train again: median", "90 %", "worst")
    yield f"| order | runs | ended | equal | kills | {' | '.join(headings)} |"
    yield "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for arrival in ("fixed", "ready"):
        found = [line for line in lines if line["arrival"] == arrival]
        if not found:
            continue
        recovered_s = sorted(seconds for line in found for seconds in line["recovered_s"])
        equal = "-" if arrival == "ready" else str(sum(bool(line["equal"]) for line in found))
        cells = [
            str(len(found)),
            str(sum(line["status"] == "finished" for line in found)),
            equal,
            str(sum(line["num_kills"] for line in found)),
            str(sum(line["kills_while_training"] for line in found)),
            f"{statistics.median(recovered_s):.2f}",
            f"{recovered_s[int(0.9 * (len(recovered_s) - 1))]:.2f}",
            f"{recovered_s[-1]:.2f}",
        ]
        yield f"| {arrival} | {' | '.join(cells)} |"


def _yes(value: bool) -> str:
    return "yes" if value else "**no**"


def _machine(line: Line) -> str:
    return (
        f"{line['processor']}, {line['cores']} cores, Python {line['python']}, torch {line['torch']}, "
        f"commit {line['commit'][:9]}{'+changes' if '+' in line['commit'] else ''}, {line['date']}"
    )


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
