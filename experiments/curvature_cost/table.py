"""Do the results say what the README says they say?

Rebuilds the README's tables from results.jsonl; with --check only compares, and fails if a target is missed.

    python -m experiments.curvature_cost.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import tyro

from experiments.curvature_cost.cases import COMPARED, FULL, MEMORY, Case
from experiments.curvature_cost.networks import NETWORKS
from experiments.machine import described
from experiments.readme import rebuild, report
from experiments.records import read_lines

__all__ = ["AIMS", "LEAST", "main", "render", "wrong_in"]

HERE = Path(__file__).parent
AIMS: Mapping[str, float] = {"lenet": 6, "vgg": 15, "mlp": 40}
"""Plain passes that the fast path is to take at most."""
LEAST = 1.5
"""Times that the fast path is to be cheaper than the paper's scheme, at least."""
MOST_GIB = 8.0
SAME = 1e-3
"""How far schemes may differ, relatively, in float32."""
_TITLES = {"paper": "the paper's", "reference": "`summarise`", "fast": "`summarise_chain`", "plain": "plain pass"}

Lines: TypeAlias = Mapping[tuple[Any, ...], dict[str, Any]]


def newest(path: Path) -> Lines:
    """The last line of each scheme of each case."""
    names = ("kind", "network", "num_samples", "samples_at_once", "scheme")
    return {tuple(line[name] for name in names): line for line in read_lines(path)}


def render(lines: Lines) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    return {
        "time": "\n".join(_times(lines)),
        "memory": "\n".join(_memory(lines)),
        "machine": "\n".join(described(line["machine"] for line in lines.values())) or "not run",
    }


def wrong_in(lines: Lines) -> Iterator[str]:
    """Targets that are missed."""
    for case in (*COMPARED, *FULL):
        found = _of(lines, "time", case)
        fast = _passes(found.get("fast"))
        title = f"{NETWORKS[case.network].title}, {case.num_samples} samples, {case.samples_at_once} at once"
        if fast is not None and fast > AIMS.get(case.network, fast):
            yield f"{title}: {fast:.1f} plain passes, at most {AIMS[case.network]} are aimed at"
        paper = _passes(found.get("paper"))
        if fast is not None and paper is not None and paper < LEAST * fast:
            yield f"{title}: {paper / fast:.2f} times cheaper than the paper's scheme, at least {LEAST} is aimed at"
        for scheme, line in found.items():
            if line["difference"] > SAME:
                yield f"{title}: {scheme} differs by {line['difference']:.1e}, at most {SAME} is aimed at"
    for case in MEMORY:
        for scheme, line in _of(lines, "memory", case).items():
            if line["peak_gib"] > MOST_GIB:
                yield f"{case.network}, {scheme}: {line['peak_gib']} GiB, at most {MOST_GIB} are aimed at"


def main(*, check: bool = False, folder: Path = HERE) -> int:
    """Rebuild the README's tables from the results.

    Args:
        check: change nothing; end with 1 if a table differs or a target is missed.
        folder: where README.md and results.jsonl lie.
    """
    lines = newest(folder / "results.jsonl")
    wrong = rebuild(folder / "README.md", render(lines), check=check)
    return report([*wrong, *wrong_in(lines)] if check else wrong)


def _of(lines: Lines, kind: str, case: Case) -> dict[str, dict[str, Any]]:
    key = (kind, case.network, case.num_samples, case.samples_at_once)
    return {scheme: lines[*key, scheme] for scheme in _TITLES if (*key, scheme) in lines}


def _passes(line: Mapping[str, Any] | None) -> float | None:
    return None if line is None else median(line["passes"])


def _cell(case: Case, scheme: str, line: Mapping[str, Any] | None) -> str:
    if line is None:
        return "not run" if scheme in case.schemes else ""
    passes = line["passes"]
    return f"{median(passes):.1f} ({min(passes):.1f} to {max(passes):.1f}; {len(passes)})"


def _times(lines: Lines) -> Iterator[str]:
    yield (
        "| network | subsets | samples | at once | the paper's | `summarise` | `summarise_chain` | paper's over fast | "
        "plain pass, s | largest difference |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for case in (*COMPARED, *FULL):
        found = _of(lines, "time", case)
        paper, fast = _passes(found.get("paper")), _passes(found.get("fast"))
        any_line = next(iter(found.values()), None)
        cells = [NETWORKS[case.network].title, str(any_line["num_subsets"]) if any_line else ""]
        cells += [str(case.num_samples), str(case.samples_at_once or "all")]
        cells += [_cell(case, scheme, found.get(scheme)) for scheme in ("paper", "reference", "fast")]
        cells += [f"{paper / fast:.2f}" if paper and fast else "", f"{any_line['plain_s']:.3f}" if any_line else ""]
        differences = [line["difference"] for line in found.values()] if len(found) > 1 else []
        cells += [f"{max(differences):.0e}" if differences else ""]
        yield f"| {' | '.join(cells)} |"


def _memory(lines: Lines) -> Iterator[str]:
    schemes = ("plain", "paper", "reference", "fast")
    yield f"| network | samples | at once | {' | '.join(_TITLES[scheme] for scheme in schemes)} |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for case in MEMORY:
        found = _of(lines, "memory", case)
        cells = [NETWORKS[case.network].title, str(case.num_samples), str(case.samples_at_once or "all")]
        for scheme in schemes:
            asked = scheme in (*case.schemes, "plain")
            cells.append(f"{found[scheme]['peak_gib']:.2f}" if scheme in found else "not run" if asked else "")
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
