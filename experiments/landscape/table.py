"""Do the results say what the README says they say?

Rebuilds the README's tables and the pictures from results.jsonl; with --check only compares, and names what is wrong.

    python -m experiments.landscape.table [--check]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from statistics import mean

import tyro

from experiments.landscape.boundaries import FORMS
from experiments.landscape.config import FULL, METHODS, NUM_STAGES, SETTINGS
from experiments.landscape.numbers import agreement_along, change_at, implied_at, lowest_along, part_of, samples_to_beat
from experiments.landscape.picture import draw
from experiments.landscape.results import FOLDER, RESULTS, SETTLED, Record, Settled, read_results, read_settled, select
from experiments.landscape.slices import LINES
from experiments.machine import described
from experiments.readme import rebuild, report
from experiments.spread import spread

__all__ = ["main", "render"]

NOT_RUN = "not run"
_BOUNDARIES = range(NUM_STAGES - 1)
_DECOUPLED = tuple(METHODS)[1:]
_LOWEST = ("used", "true", "used, all samples", "true, all samples")
_TARGETS = {
    "as it is": "not at all",
    "own target": "they learn on from their own targets",
    "true target": "and then from the truth",
}
_SHOWN_SIZES = (32, 128, 1024, 8192)

Number = Callable[[Record], float | None]
"""None: there is no such thing."""
Columns = Mapping[str, tuple[str, Number]]
"""By heading, the form of a number and how it is taken from a record."""


def render(records: Collection[Record], settled: Collection[Settled]) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    tables = {
        "runs": _runs(records),
        "alignment": _by_step(records, METHODS, _alignment()),
        "decrease": _by_step(records, METHODS, _decrease()),
        "lowest": _by_step(records, METHODS, _lowest()),
        "bias": _by_step(records, _DECOUPLED, _bias()),
        "noise": _by_step(records, METHODS, _noise()),
        "samples": _by_step(records, METHODS, _samples()),
        "gap": _by_step(records, _DECOUPLED, _gap()),
        "forms": _by_step(records, METHODS, _forms("relative_error")),
        "forms parameters": _by_step(records, METHODS, _forms("parameter_cosine")),
        "forms by stage": _by_step(records, _DECOUPLED, _forms_by_stage()),
        "settled": _settled(settled),
        "sweep": _sweep(records),
        "cost": _cost(records, settled),
    }
    parts = {name: "\n".join(lines) for name, lines in tables.items()}
    return parts | {"machine": "\n".join(described(each.machine for each in [*records, *settled])) or NOT_RUN}


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables and the pictures from the results.

    Examples:
        python -m experiments.landscape.table
        python -m experiments.landscape.table --check

    Args:
        check: change nothing; end with 1 and say what is wrong if the README is not what the results give.
        folder: where README.md and results.jsonl lie.
    """
    records = read_results(folder / RESULTS.name)
    wrong = rebuild(folder / "README.md", render(records, read_settled(folder / SETTLED.name)), check=check)
    if records and not check:
        draw(records, folder)
    return report(wrong)


def _by_step(records: Collection[Record], methods: Iterable[str], columns: Columns) -> Iterator[str]:
    """A row for each method and step: means over seeds."""
    yield f"| gradients | step | {' | '.join(columns)} |"
    yield "|---|---:|" + "---:|" * len(columns)
    for method in methods:
        for step in SETTINGS.checkpoints:
            own = select(records, method, step)
            cells = [_cell(own, form, number) for form, number in columns.values()]
            yield f"| {method} | {step} | {' | '.join(cells)} |"


def _cell(records: Collection[Record], form: str, number: Number) -> str:
    values = [value for record in records if (value := number(record)) is not None]
    return spread(values, form) if values else ("-" if records else NOT_RUN)


def _runs(records: Collection[Record]) -> Iterator[str]:
    headings = [f"step {step}" for step in SETTINGS.checkpoints]
    yield f"| gradients | {' | '.join(f'test error %, {each}' for each in headings)} | training loss, {headings[-1]} |"
    yield "|---|" + "---:|" * (len(headings) + 1)
    for method in METHODS:
        steps = [select(records, method, step) for step in SETTINGS.checkpoints]
        cells = [_cell(own, ".2f", lambda record: 100 * record.test_error) for own in steps]
        yield f"| {method} | {' | '.join(cells)} | {_cell(steps[-1], '.4f', lambda record: record.train_loss)} |"


def _alignment() -> Columns:
    """Along real steps also near the start; beyond, what is far from it decides."""
    near = {
        f"{name}, 2 steps": (".2f", lambda own, name=name: agreement_along(own.lines[name], within=2.0))
        for name in ("used", "true")
    }
    return near | {name: (".2f", lambda own, name=name: agreement_along(own.lines[name])) for name in LINES}


def _decrease() -> Columns:
    return {
        "used: true": ("+.4f", lambda record: change_at(record.lines["used"], 1.0)),
        "used: implied": ("+.4f", lambda record: implied_at(record.lines["used"], 1.0)),
        "used, below the last: true": ("+.4f", lambda record: change_at(record.lines["used, below the last"], 1.0)),
        "used, all samples: true": ("+.4f", lambda record: change_at(record.lowest["used, all samples"], 1.0)),
        "true: true": ("+.4f", lambda record: change_at(record.lines["true"], 1.0)),
        "true, all samples: true": ("+.4f", lambda record: change_at(record.lowest["true, all samples"], 1.0)),
        "length of used over true": (
            ".1f",
            lambda record: record.lines["used"]["length"][0] / record.lines["true"]["length"][0],
        ),
    }


def _lowest() -> Columns:
    return {
        **{f"at, {name}": (".1f", lambda own, name=name: lowest_along(own.lowest[name])[0]) for name in _LOWEST},
        **{f"change, {name}": ("+.3f", lambda own, name=name: lowest_along(own.lowest[name])[1]) for name in _LOWEST},
    }


def _bias() -> Columns:
    stages = [f"stage {index}" for index in _BOUNDARIES]
    return {
        **{f"bias, {name}": (".2f", lambda own, name=name: 1 - _whole(own, name, "cosine")) for name in stages},
        **{f"norm, {name}": (".1f", lambda own, name=name: _whole(own, name, "norm_ratio")) for name in stages},
        **{f"projection, {name}": (".1f", lambda own, name=name: _whole(own, name, "projection")) for name in stages},
    }


def _noise() -> Columns:
    size = SETTINGS.batch_size
    return {
        f"{which}, stage {index}": (
            ".2f",
            lambda own, which=which, index=index: 1 - _sized(own, f"stage {index}", size, f"{which}_pairwise"),
        )
        for which in ("used", "true")
        for index in _BOUNDARIES
    }


def _samples() -> Columns:
    columns: dict[str, tuple[str, Number]] = {
        f"{which}, B = {size}": (
            ".2f",
            lambda own, which=which, size=size: _sized(own, "below the last", size, f"{which}_to_truth"),
        )
        for which in ("used", "true")
        for size in _SHOWN_SIZES
    }
    return columns | {"log2 of B to beat it": (".1f", _beaten_at)}


def _beaten_at(record: Record) -> float | None:
    return None if record.method == "true gradient" else math.log2(samples_to_beat(record, "below the last"))


def _gap() -> Columns:
    columns: dict[str, tuple[str, Number]] = {}
    for index in _BOUNDARIES:
        for heading, name in (("a", "target_relative_error"), ("b", "relative_error"), ("c", "target_to_truth")):
            columns[f"{heading}, stage {index}"] = (".2f", _grade(index, name))
    return columns


def _grade(index: int, name: str) -> Number:
    """Of what learns from labels alone, only the truth is a measure."""
    return lambda record: (
        record.boundaries[index][name] if METHODS[record.method].bootstraps or not name.startswith("target") else None
    )


def _forms(name: str) -> Columns:
    """Means over the boundaries, and over seeds."""
    learned: dict[str, tuple[str, Number]] = {
        "as it is": (".2f", lambda record: mean(boundary[name] for boundary in record.boundaries))
    }
    return learned | {
        form: (".2f", lambda record, form=form: mean(boundary[form][name] for boundary in record.forms))
        for form in FORMS
    }


def _forms_by_stage() -> Columns:
    """The cosine of the parameters' gradient, of the source and of the form with the labels."""
    name, form = "parameter_cosine", "linear with labels"
    return {
        **{f"as it is, stage {index}": (".2f", _grade(index, name)) for index in _BOUNDARIES},
        **{f"fitted, stage {index}": (".2f", lambda own, i=index: own.forms[i][form][name]) for index in _BOUNDARIES},
    }


def _settled(settled: Collection[Settled]) -> Iterator[str]:
    """A row for each step and kind of target: relative error against the truth, and cosine of the parameters'."""
    headings = [f"{what}, stage {index}" for what in ("relative error", "cosine") for index in _BOUNDARIES]
    yield f"| step | the network holds still | {' | '.join(headings)} |"
    yield "|---:|---|" + "---:|" * len(headings)
    for step in SETTINGS.checkpoints[1:]:
        own = [each for each in settled if each.step == step]
        for name, title in _TARGETS.items():
            values = [
                [each.grades[name][index][grade] for each in own]
                for grade in ("relative_error", "parameter_cosine")
                for index in _BOUNDARIES
            ]
            cells = [spread(value, ".2f") if value else NOT_RUN for value in values]
            yield f"| {step} | {title} | {' | '.join(cells)} |"


def _sweep(records: Collection[Record]) -> Iterator[str]:
    yield "| rate | probability of a sync | test error % | cosine below the last |"
    yield "|---:|---:|---:|---:|"
    for rate, sync in dict.fromkeys((job.rate, job.sync) for job in FULL):
        last = SETTINGS.checkpoints[-1]
        own = [each for each in records if (each.rate, each.sync, each.step) == (rate, sync, last)]
        error = _cell(own, ".2f", lambda record: 100 * record.test_error)
        cosine = _cell(own, ".2f", lambda record: _whole(record, "below the last", "cosine"))
        yield f"| {rate:g} | {sync:g} | {error} | {cosine} |"


def _cost(records: Collection[Record], settled: Collection[Settled]) -> Iterator[str]:
    yield "| gradients | runs | minutes of one core |"
    yield "|---|---:|---:|"
    for method in METHODS:
        own = [record for record in records if record.method == method]
        yield f"| {method} | {len({record.job for record in own})} | {sum(record.cpu_s for record in own) / 60:.1f} |"
    held = {each.seed for each in settled}
    yield f"| synthetic with labels, held still | {len(held)} | {sum(each.cpu_s for each in settled) / 60:.1f} |"
    spent = sum(each.cpu_s for each in [*records, *settled])
    yield f"| all | {len({record.job for record in records}) + len(held)} | {spent / 60:.1f} |"


def _whole(record: Record, part: str, name: str) -> float:
    return float(part_of(record, part)[name])


def _sized(record: Record, part: str, size: int, name: str) -> float:
    return float(part_of(record, part)[str(size)][name])


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
