"""How is a run in virtual time shown to a person at the terminal?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from pipeline.configuration.config import per_stage
from pipeline.virtual_time.analysis import Bound, fastest, held_bytes, own_seconds, wire_bytes
from pipeline.virtual_time.rehearsal import Rehearsal

__all__ = ["comparison_table", "rehearsal_tables"]

Floats: TypeAlias = NDArray[np.float64]

_WAYS = {
    "stages": "the stages themselves, without their mathematics",
    "recursion": "the timing recursion",
    "mathematics": "the stages themselves, with their mathematics",
}
_MOST_ROWS = 12
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def rehearsal_tables(rehearsal: Rehearsal) -> RenderableType:
    """One run: a row per stage (of many, some, the slowest among them), throughput beside its bound, memory, bytes."""
    prepared, timing, costs = rehearsal.prepared, rehearsal.timing, rehearsal.costs
    own_s, kept = own_seconds(prepared, costs), held_bytes(prepared, timing)
    table = _table(rehearsal, ("stage", "own s", "fresh", "wait", "drop", "stale\nmean", "stale\nmax", "held", "kept"))
    columns = (timing.fresh, timing.waiting, timing.dropped, timing.staleness_mean, timing.staleness_max)
    for index in _chosen_rows(own_s):
        shares, stale = [column[index] for column in columns[:3]], [column[index] for column in columns[3:]]
        table.add_row(
            f"{index:,}",
            f"{own_s[index]:.4g}",
            *(f"{share:.1%}" for share in shares),
            *(_number(value) for value in stale),
            f"{timing.most_held[index]:,}",
            _size(kept[index]),
        )
    table.add_section()
    table.add_row(
        "mean",
        f"{own_s.mean():.4g}",
        *(f"{column.mean():.1%}" for column in columns[:3]),
        *(_number(_mean(column)) for column in columns[3:]),
        f"{timing.most_held.mean():,.1f}",
        _size(kept.mean()),
    )
    return Group(table, *_lines(rehearsal))


def comparison_table(rehearsals: Mapping[str, Rehearsal]) -> RenderableType:
    """Several methods on the same stages, a row each."""
    headings = ("method", "s each", "bound", "ratio", "fresh", "stale", "most", "held", "kept", "wire")
    table = _table(next(iter(rehearsals.values())), headings)
    for name, rehearsal in rehearsals.items():
        timing, bound = rehearsal.timing, fastest(rehearsal.prepared, rehearsal.costs)
        period_s = _steady_s(rehearsal)
        table.add_row(
            name,
            f"{period_s:.4g}",
            f"{bound.period_s:.4g}",
            _ratio(period_s, bound),
            f"{timing.fresh.mean():.1%}",
            _number(_mean(timing.staleness_mean)),
            _number(_most(timing.staleness_max)),
            f"{timing.most_held.max():,}",
            _size(held_bytes(rehearsal.prepared, timing).sum()),
            _size(wire_bytes(rehearsal.prepared, rehearsal.costs, timing).sum() / rehearsal.prepared.config.steps),
        )
    return Group(
        table,
        "s each  seconds per microbatch in the second half of the run",
        "bound   the least the method allows, messages taking no time",
        "fresh   mean share of the whole run in work that counted",
        "stale   versions from a forward to the use of its gradient: mean, and most",
        "held    most microbatches that a stage holds until their gradients come",
        "kept    bytes of graphs, inputs and weights kept by all stages",
        "wire    bytes per microbatch over all boundaries",
    )


def _table(rehearsal: Rehearsal, headings: Sequence[str]) -> Table:
    title = f"{rehearsal.timing.num_stages:,} stages, {rehearsal.prepared.config.steps:,} steps, in virtual time"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    return table


def _lines(rehearsal: Rehearsal) -> list[str]:
    timing, prepared = rehearsal.timing, rehearsal.prepared
    bound, period_s = fastest(prepared, rehearsal.costs), _steady_s(rehearsal)
    whole_s = timing.period_s() / prepared.takes_every[-1]
    kept = held_bytes(prepared, timing)
    sent = wire_bytes(prepared, rehearsal.costs, timing).sum() / prepared.config.steps
    lines = [
        f"throughput   {_rate(period_s)} microbatches/s in the second half ({period_s:.4g} s each); "
        f"{_rate(whole_s)}/s over all {timing.end_s:,.4g} s",
        f"bound        {bound.period_s:.4g} s each: {bound.reason}",
        f"ratio        {_ratio(period_s, bound)}",
        f"memory       {_size(kept.sum())} kept by all stages together, at most {_size(kept.max())} by one",
        f"wire         {_size(sent)} per microbatch over all boundaries",
        f"played by    {_WAYS[rehearsal.way]}",
    ]
    if rehearsal.loss is not None:
        lines.append(f"loss         {rehearsal.loss:.4g}, mean of the last microbatches")
    return lines


def _steady_s(rehearsal: Rehearsal) -> float:
    """Seconds per microbatch of the feed in the second half, counted in whole windows of the longest cadence."""
    prepared = rehearsal.prepared
    window = max(per_stage(prepared.config.cadence, prepared.num_stages, name="cadence"))
    return rehearsal.timing.steady_period_s(window) / prepared.takes_every[-1]


def _size(num_bytes: float) -> str:
    power = min(int(np.log2(max(num_bytes, 1.0)) // 10), len(_UNITS) - 1)
    size = num_bytes / 1024**power
    return f"{size:.0f} {_UNITS[power]}" if size >= 100 else f"{size:.3g} {_UNITS[power]}"


def _rate(period_s: float) -> str:
    return f"{1 / period_s:.4g}" if period_s else "-"


def _ratio(period_s: float, bound: Bound) -> str:
    return f"{period_s / bound.period_s:.3f}" if bound.period_s else "-"


def _chosen_rows(own_s: Floats) -> list[int]:
    count = len(own_s)
    if count <= _MOST_ROWS:
        return list(range(count))
    spread = {round(row * (count - 1) / (_MOST_ROWS - 2)) for row in range(_MOST_ROWS - 1)}
    return sorted(spread | {int(own_s.argmax())})


def _mean(values: Floats) -> float | None:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None


def _most(values: Floats) -> float | None:
    there = values[~np.isnan(values)]
    return float(there.max()) if len(there) else None


def _number(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.3g}"
