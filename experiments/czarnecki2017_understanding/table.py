"""Do the results say what the README says they say?

Rebuilds the README's tables and the pictures from results.jsonl; with --check only compares, and names what is wrong.

    python -m experiments.czarnecki2017_understanding.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments.czarnecki2017_understanding.config import SMALL_SETS
from experiments.czarnecki2017_understanding.metrics import distance, gap, value
from experiments.czarnecki2017_understanding.pictures import draw, drawable
from experiments.czarnecki2017_understanding.results import FOLDER, Expected, Runs, read_expected, read_runs
from experiments.czarnecki2017_understanding.toys import TOYS
from experiments.readme import rebuild, report
from experiments.spread import spread

__all__ = ["failures", "main", "render"]

_SETTINGS = (
    ("linear mse linear", "linear, squared error, linear"),
    ("deep mse linear", "10 hidden, squared error, linear"),
    ("linear log linear", "linear, log loss, linear"),
    ("linear log matched", "linear, log loss, matched"),
    ("deep log linear", "10 hidden, log loss, linear"),
    ("deep log matched", "10 hidden, log loss, matched"),
)
"""Of the toys: network, loss, synthesizer."""
_DEEP = {
    "deep none": "no (backprop)",
    "deep middle": "the middle layer",
    "deep every": "every layer",
    "deep every slow": "every layer, slow",
}
_LAYERS = (1, 3, 5, 10, 15, 20)


def render(expected: Mapping[str, Expected], runs: Runs) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    return {
        "statements": "\n".join(_statements(expected, runs)),
        "toys": "\n".join(_toys(runs)),
        "deep": "\n".join(_deep(runs)),
        "small": "\n".join(_small(runs)),
        "pictures": "\n\n".join(f"![{name.removesuffix('.png')}]({name})" for name in drawable(runs)) or "not run",
    }


def failures(expected: Mapping[str, Expected], runs: Runs) -> list[str]:
    """What of expected.csv does not hold, row by row; what was not run is none."""
    wrong = []
    for row in expected.values():
        found = value(row.row, runs)
        if row.ours is None:
            continue
        if found is None:
            wrong.append(f"{row.row}: expected.csv has {row.ours:g}, and no result gives it")
        elif abs(found - row.ours) > row.tolerance:
            wrong.append(f"{row.row}: {found:.4g} lies outside {row.ours:g} ± {row.tolerance:g}")
    return wrong


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables and the pictures from the results.

    Args:
        check: change nothing; end with 1 if a table differs, a picture is missing or a value has left its tolerance.
        folder: where README.md, expected.csv and results.jsonl lie.
    """
    expected, runs = read_expected(folder / "expected.csv"), read_runs(folder / "results.jsonl")
    wrong = rebuild(folder / "README.md", render(expected, runs), check=check)
    if not check:
        draw(runs, folder)
        return 0
    missing = [name for name in drawable(runs) if not (folder / name).exists()]
    wrong += [f"{name}: missing; run table.py without --check" for name in missing] + failures(expected, runs)
    return report(wrong)


def _statements(expected: Mapping[str, Expected], runs: Runs) -> Iterator[str]:
    yield "| row | number | the paper says | trust | bound (ours) | found | |"
    yield "|---|---|---|---|---:|---:|---|"
    for row in expected.values():
        found = value(row.row, runs)
        verdict = "" if found is None else "holds" if row.holds(found) else "does not hold"
        cells = (row.row, row.metric, row.paper, row.trust, f"{row.relation} {row.bound:g}", _number(found), verdict)
        yield f"| {' | '.join(cells)} |"


def _toys(runs: Runs) -> Iterator[str]:
    columns = [(data, num_dims) for data in TOYS for num_dims in (2, 100)]
    yield f"| network, loss, synthesizer | {' | '.join(f'{data}, {num_dims}-D' for data, num_dims in columns)} |"
    yield "|---|" + "---:|" * len(columns)
    for setting, title in _SETTINGS:
        cells = []
        for data, num_dims in columns:
            row = f"toy {data} {num_dims} {setting}"
            apart, away = gap(runs, row), distance(runs, row)
            cells.append("not run" if apart is None or away is None else f"{apart:.2f} ({away:.3f})")
        yield f"| {title} | {' | '.join(cells)} |"


def _deep(runs: Runs) -> Iterator[str]:
    yield (
        "| synthetic gradient after | test error % | training loss | parameter cosine at the bottom | "
        f"{' | '.join(f'probe, layer {layer}' for layer in _LAYERS)} |"
    )
    yield "|---|---:|---:|---:|" + "---:|" * len(_LAYERS)
    for row, title in _DEEP.items():
        own = list(runs.get(row, {}).values())
        probes = [
            _spread(own, lambda run, layer=layer: 100 * run["probe_accuracy"][layer - 1], ".1f")  # type: ignore[misc]
            for layer in _LAYERS
        ]
        cells = (
            _spread(own, lambda run: 100 * run["test_error"]),
            _spread(own, lambda run: run["train_loss"], ".4f"),
            "-" if row == "deep none" else _spread(own, lambda run: run["probes"][0]["parameter_cosine"]),
            *probes,
        )
        yield f"| {title} | {' | '.join(cells)} |"


def _small(runs: Runs) -> Iterator[str]:
    yield (
        "| training samples | random labels | method | test error % | training error % (labels as given) | "
        "(labels as they are right) | parameter cosine at the bottom |"
    )
    yield "|---:|---:|---|---:|---:|---:|---:|"
    for num_samples, noise in SMALL_SETS:
        for method, title in (("bp", "backprop"), ("linear", "synthetic gradients")):
            own = list(runs.get(f"small {num_samples} {noise:g} {method}", {}).values())
            cells = (
                _spread(own, lambda run: 100 * run["test_error"]),
                _spread(own, lambda run: 100 * run["given_error"]),
                _spread(own, lambda run: 100 * run["right_error"]),
                _spread(own, lambda run: run["probes"][0]["parameter_cosine"]),
            )
            yield f"| {num_samples} | {100 * noise:g} % | {title} | {' | '.join(cells)} |"


def _spread(runs: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], float], form: str = ".2f") -> str:
    """Mean ± standard deviation over seeds."""
    values = [of(run) for run in runs]
    return spread(values, form) if values else "not run"


def _number(found: float | None) -> str:
    return "not run" if found is None else f"{found:.3f}"


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
