"""Do the results say what the README says they say?

Rebuilds the README's tables from results.jsonl, costs.jsonl and speed.jsonl; with --check only compares, and names what
is wrong.

    python -m experiments.one_family.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any, TypeAlias

import tyro

from experiments.machine import described
from experiments.one_family.config import FAMILIES, NETS, ROWS, SEEDS, TASKS, Row, Task
from experiments.one_family.results import FOLDER, Run, counted, finalists, read_runs
from experiments.one_family.speed import LOOP
from experiments.readme import rebuild, report
from experiments.records import read_lines
from experiments.spread import spread

__all__ = ["failures", "main", "render"]

Lines: TypeAlias = Sequence[Mapping[str, Any]]


def render(runs: Collection[Run], costs: Lines, speeds: Lines) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    own = counted(runs)
    parts = {f"{net} {data}": "\n".join(_errors((net, data), own)) for net, data in TASKS}
    parts |= {f"{net} cost": "\n".join(_costs(net, costs, speeds)) for net in NETS}
    parts["in use"] = _in_use(own)
    parts["finalists"] = ", ".join(ROWS[row].title for row in finalists(runs)) or "not run"
    where = [*(run.machine for run in runs), *(line["machine"] for line in (*costs, *speeds))]
    return parts | {"machine": "\n".join(described(where)) or "not run"}


def failures(runs: Collection[Run], costs: Lines) -> Iterator[str]:
    """What is missing, as long as anything is there; and rows that are not the bits of their twins."""
    own = counted(runs)
    wanted = finalists(runs)
    for row, settings in ROWS.items():
        if costs:
            yield from (f"{row}, {net}: its cost is missing" for net in NETS if (row, net) not in _newest(costs))
        for task in TASKS if runs else ():
            found, least = own.get((row, task), []), len(SEEDS) if row in wanted else 1
            if len(found) < least:
                yield f"{row}, {' '.join(task)}: needs {least} seeds, has {len(found)}"
            if settings.twin and found and not _same(found[0], own.get((settings.twin, task), [])):
                yield f"{row}, {' '.join(task)}: must equal {settings.twin}"


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables from the results.

    Args:
        check: change nothing; end with 1 and say what is wrong if something is.
        folder: where README.md and the results lie.
    """
    runs, costs = read_runs(folder), read_lines(folder / "costs.jsonl")
    parts = render(runs, costs, read_lines(folder / "speed.jsonl"))
    wrong = rebuild(folder / "README.md", parts, check=check)
    if check:
        wrong += failures(runs, costs)
    return report(wrong)


def _errors(task: Task, own: Mapping[tuple[str, Task], Sequence[Run]]) -> Iterator[str]:
    yield "| | test error % | held-out error % | cosine at h | at the weights | rate |"
    yield "|:---|---:|---:|---:|---:|---:|"
    for heading, names in _by_family():
        yield heading + " |" * 5
        for name in names:
            runs = own.get((name, task))
            cells = " | | | | ".join(["not run", ""]) if not runs else " | ".join(_error_cells(ROWS[name], runs))
            yield f"| {ROWS[name].title} | {cells} |"


def _error_cells(row: Row, runs: Sequence[Run]) -> list[str]:
    if runs[0].refused:
        return [f"refused: {runs[0].refused}", "", "", "", ""]
    errors = [_spread([run.test_error for run in runs]), _spread([run.held_out_error for run in runs])]
    return [*errors, *_cosines(row, runs), f"{runs[0].rate:g}"]


def _spread(errors: Sequence[float | None]) -> str:
    """Mean and standard deviation over the seeds, in percent."""
    found = [100 * error for error in errors if error is not None]
    if len(found) < len(errors):
        return f"diverged ({len(errors) - len(found)} of {len(errors)})"
    return spread(found, ".2f")


def _cosines(row: Row, runs: Sequence[Run]) -> list[str]:
    """At the probes; where they are blind † that of what was used in training."""
    if row.blind_probe:
        used = [run.used_cosine for run in runs if run.used_cosine is not None]
        return [f"{mean(used):.2f} †" if used else "", ""]
    probes = [run.probe_cosines for run in runs], [run.probe_weight_cosines for run in runs]
    return [f"{mean(cosine for run in own for cosine in run):.2f}" if any(own) else "" for own in probes]


def _in_use(own: Mapping[tuple[str, Task], Sequence[Run]]) -> str:
    """What is used in training, of backprop, and of rows of which a probe says it as well."""
    found = []
    for name, row in ROWS.items():
        runs = [run for task in TASKS for run in own.get((name, task), ()) if run.used_cosine is not None]
        if runs and row.family in ("true", "synthetic") and not row.twin:
            probes = mean(mean(run.probe_cosines) for run in runs)
            used = mean(run.used_cosine or 0.0 for run in runs)
            found.append(f"{row.title} {used:.2f} (probed {probes:.2f})")
    return "; ".join(found) or "not run"


def _costs(net: str, costs: Lines, speeds: Lines) -> Iterator[str]:
    yield (
        "| | learned | fixed | FLOPs of the source | all FLOPs | of backprop's | bytes up | down | errors | "
        "samples/s in threads | of backprop's | of a plain loop's |"
    )
    yield "|:---|" + "---:|" * 11
    newest, rates = _newest(costs), _rates(net, speeds)
    for heading, names in _by_family():
        yield heading + " |" * 11
        for name in names:
            cost = newest.get((name, net))
            cells = _cost_cells(cost, newest.get(("backprop", net))) if cost else ["not run", *[""] * 7]
            yield f"| {ROWS[name].title} | {' | '.join([*cells, *_speed_cells(name, rates)])} |"
    if LOOP in rates:
        yield f"| *a plain loop* |{' |' * 8} {rates[LOOP]:.0f} | {_ratio(rates, LOOP, 'backprop')} | 1.00 |"


def _cost_cells(cost: Mapping[str, Any], backprop: Mapping[str, Any] | None) -> list[str]:
    relative = f"{cost['flops'] / backprop['flops']:.2f}" if backprop else ""
    sent = [cost[f"{way}_bytes"] for way in ("up", "down", "error")]
    flops = [f"{cost[name] / 1e6:.2f} M" for name in ("source_flops", "flops")]
    return [f"{cost['learned']:,}", f"{cost['fixed']:,}", *flops, relative, *[f"{count:,.0f}" for count in sent]]


def _speed_cells(row: str, rates: Mapping[str, float]) -> list[str]:
    if row not in rates:
        return ["not run", "", ""]
    return [f"{rates[row]:.0f}", *[_ratio(rates, row, to) for to in ("backprop", LOOP)]]


def _ratio(rates: Mapping[str, float], row: str, to: str) -> str:
    return f"{rates[row] / rates[to]:.2f}" if to in rates else ""


def _rates(net: str, speeds: Lines) -> dict[str, float]:
    """The median of samples/s over the repeats of the newest run of `speed.py`, by row."""
    own = [line for line in speeds if line["net"] == net]
    newest = [line for line in own if line["run"] == own[-1]["run"]]
    names = dict.fromkeys(line["row"] for line in newest)
    return {name: median(line["samples_per_s"] for line in newest if line["row"] == name) for name in names}


def _newest(costs: Lines) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(line["row"], line["net"]): line for line in costs}


def _by_family() -> Iterator[tuple[str, list[str]]]:
    """A line that names a family, and its rows."""
    for family, title in FAMILIES.items():
        yield f"| **{title}** |", [name for name, row in ROWS.items() if row.family == family]


def _same(run: Run, twins: Sequence[Run]) -> bool:
    """Whether it came to what the twin did, if that was run with the same rate."""
    alike = [twin for twin in twins if (twin.rate, twin.seed) == (run.rate, run.seed)]
    return all((twin.held_out_error, twin.test_error) == (run.held_out_error, run.test_error) for twin in alike)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
