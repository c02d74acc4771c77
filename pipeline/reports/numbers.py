"""What has each run come to, in numbers, and how far do the seeds lie apart?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, TypeAlias

from pipeline.reports.reading import Run

__all__ = ["FINAL", "STAGE", "Number", "Quantity", "spread", "values_of"]

Number: TypeAlias = float | None


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number of a run."""

    name: str
    of: Callable[[Run], Number]
    """None where it has no meaning, or was not recorded."""


def spread(values: Sequence[Number]) -> str:
    """Mean ± standard deviation (n - 1) of what is known, the deviation to two digits and the mean as far as that.

    Where not all are known, it says of how many, and how many are not finite: those runs have diverged.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    num_wild = sum(value is not None and not math.isfinite(value) for value in values)
    wild = f"{num_wild} not finite" if num_wild else ""
    if not known:
        return wild or "-"
    of = "" if len(known) == len(values) else f" ({len(known)} of {len(values)}{', ' * bool(wild)}{wild})"
    mean, deviation = fmean(known), stdev(known) if len(known) > 1 else 0.0
    if deviation == 0.0:
        return _plain(mean) + of
    digits = 1 - math.floor(math.log10(deviation))
    if digits > 6:
        return f"{_plain(mean)} ± {deviation:.0e}{of}"
    digits = max(digits, 0)
    return f"{mean:,.{digits}f} ± {deviation:,.{digits}f}{of}"


def values_of(quantity: Quantity, runs: Iterable[Run]) -> list[Number]:
    """Of each run."""
    return [quantity.of(run) for run in runs]


def _plain(value: float) -> str:
    if value == int(value) if math.isfinite(value) else False:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _summary(name: str, *, measured: str = "") -> Callable[[Run], Number]:
    """From the summary; of a run without one, the last value that was measured."""

    def of(run: Run) -> Number:
        if name in run.summary:
            value = run.summary[name]
            return float(value) if isinstance(value, int | float) else None
        found = [series.last for series in run.of(measured).values()] if measured else []
        return found[-1] if found else None

    return of


def _over_stages(name: str, combine: Callable[[list[float]], float]) -> Callable[[Run], Number]:
    def of(run: Run) -> Number:
        known = [float(stage[name]) for stage in run.stages if isinstance(stage.get(name), int | float)]
        return combine(known) if known else None

    return of


def _share(part: str) -> Callable[[Run], Number]:
    def of(run: Run) -> Number:
        total = sum(stage.get("busy_s", 0.0) + stage.get("wait_s", 0.0) for stage in run.stages)
        return sum(stage.get(part, 0.0) for stage in run.stages) / total if total else None

    return of


def _probe_cosine(run: Run) -> Number:
    found = [series.last for series in run.of("probe_cosine").values()]
    return fmean(found) if found else None


def _steps(run: Run) -> Number:
    if "steps" in run.summary:
        return float(run.summary["steps"])
    seen = [float(series.steps.max()) for found in run.series.values() for series in found.values()]
    return max(seen) + 1 if seen else None


FINAL = (
    Quantity(name="steps", of=_steps),
    Quantity(name="train loss", of=_summary("train_loss", measured="loss")),
    Quantity(name="test loss", of=_summary("test_loss", measured="test_loss")),
    Quantity(name="test accuracy", of=_summary("test_accuracy", measured="test_accuracy")),
    Quantity(name="samples/s", of=_summary("samples_per_s")),
    Quantity(name="wall time, s", of=_summary("wall_s")),
    Quantity(name="samples", of=_summary("samples")),
    Quantity(name="parameters", of=_over_stages("num_parameters", sum)),
    Quantity(name="updates, all stages", of=_over_stages("updates", sum)),
    Quantity(name="waiting, share of time", of=_share("wait_s")),
    Quantity(name="dropped, share of time", of=_share("dropped_s")),
    Quantity(name="staleness, mean over stages", of=_over_stages("staleness_mean", fmean)),
    Quantity(name="staleness, largest", of=_over_stages("staleness_max", max)),
    Quantity(name="cosine at syncs, mean over stages", of=_over_stages("gradient_cosine", fmean)),
    Quantity(name="cosine at the last probe, mean over stages", of=_probe_cosine),
)


@dataclass(frozen=True, kw_only=True)
class _OfStage:
    name: str
    of: Callable[[Mapping[str, Any]], Number]


def _entry(name: str) -> Callable[[Mapping[str, Any]], Number]:
    def of(stage: Mapping[str, Any]) -> Number:
        value = stage.get(name)
        return float(value) if isinstance(value, int | float) else None

    return of


STAGE = tuple(
    _OfStage(name=name, of=_entry(key))
    for name, key in (
        ("parameters", "num_parameters"),
        ("updates", "updates"),
        ("busy, s", "busy_s"),
        ("waiting, s", "wait_s"),
        ("dropped, s", "dropped_s"),
        ("staleness", "staleness_mean"),
        ("most held", "most_held"),
        ("source loss", "source_loss"),
        ("cosine at syncs", "gradient_cosine"),
    )
)
