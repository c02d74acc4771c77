"""Do the results say what the README says they say?

Rebuilds the README's tables and the picture from results.jsonl, times.jsonl and stages.jsonl; with --check only
compares, and names what is wrong.

    python -m experiments.li2021_lws.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from statistics import mean

import tyro

from experiments.expected import Expected, read_expected
from experiments.li2021_lws.accuracy_tables import accuracy_parts, differences
from experiments.li2021_lws.config import FULL_NETS, TASKS, TUNED, Rule
from experiments.li2021_lws.picture import PICTURE, draw
from experiments.li2021_lws.results import FOLDER, Run, counted, finalists, read_runs, speed_up
from experiments.li2021_lws.speed import NETS as TIMED
from experiments.li2021_lws.time_tables import Lines, speed_ups, time_parts
from experiments.machine import described
from experiments.readme import rebuild, report
from experiments.records import read_lines

__all__ = ["failures", "main", "measured", "render"]


def render(runs: Collection[Run], times: Lines, stages: Lines) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    where = [*(run.machine for run in runs), *(line["machine"] for line in (*times, *stages))]
    return {**accuracy_parts(runs), **time_parts(times, stages), "machine": "\n".join(described(where)) or "not run"}


def measured(runs: Collection[Run], times: Lines) -> dict[str, list[float]]:
    """What expected.csv is about: values by row, where there is anything to be compared."""
    return (_accuracies(runs) if runs else {}) | (_times(times) if times else {})


def failures(expected: Mapping[str, Expected], found: Mapping[str, list[float]]) -> Iterator[str]:
    """What of the expectations does not hold, row by row; rows of which nothing was run are left out."""
    for name, values in found.items():
        row = expected[name]
        if len(values) < row.seeds:
            yield f"{name}: needs {row.seeds} seeds, has {len(values)}; run it"
        elif values:
            yield from row.misses(mean(values), digits=2)


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables and the picture from the results.

    Args:
        check: change nothing; end with 1 and say what is wrong if something is.
        folder: where README.md, expected.csv and the results lie.
    """
    runs, times, stages = read_runs(folder), read_lines(folder / "times.jsonl"), read_lines(folder / "stages.jsonl")
    wrong = rebuild(folder / "README.md", render(runs, times, stages), check=check)
    if check:
        wrong += failures(read_expected(folder / "expected.csv"), measured(runs, times))
    elif runs:
        draw(runs, folder / PICTURE)
    return report(wrong)


def _accuracies(runs: Collection[Run]) -> dict[str, list[float]]:
    """Points of test accuracy over full SGD, and times by which back-propagation was faster."""
    own, found = counted(runs), {}
    for task in (task for task in TASKS if task[0] not in FULL_NETS):
        name, chosen = " ".join(task).replace(" ", "_"), finalists(own, task)
        found[f"{name}_ends"] = differences(own, task, Rule("ends", 0.0))
        for kind in ("fastest", "most accurate"):
            row = f"{name}_{kind}".replace(" ", "_")
            found[row] = differences(own, task, chosen[kind]) if kind in chosen else []
            faster = [speed_up(run) for run in own[task, chosen[kind]]] if kind in chosen else []
            found[f"{row}_speed_up"] = [value for value in faster if value is not None]
    return found


def _times(times: Lines) -> dict[str, list[float]]:
    found = {}
    for net in TIMED:
        own = speed_ups(net, times)
        for rule in (Rule("head", 0.1), TUNED):
            found[f"time_{net}_{rule.learns}_{rule.probability:g}"] = [own[rule].backward] if rule in own else []
        off = [abs(each.off) for each in own.values() if each.off is not None]
        found[f"time_{net}_off"] = [max(off)] if off else []
        found[f"time_{net}_step_off"] = [max(abs(each.step_off) for each in own.values())] if own else []
    return found


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
