"""What was measured by the runs of a group, as one curve with a spread?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.reports.groups import Group
from pipeline.reports.reading import Run
from pipeline.reports.series import Band, Floats, Series, combine

__all__ = ["AXES", "axis_of", "limits_of", "names_in", "network_band", "stage_bands"]

AXES = {"step": "step", "samples": "samples", "wall": "wall time, s"}
"""What a curve may be drawn over, and how the axis is called."""


def axis_of(run: Run, series: Series, axis: str) -> Floats | None:
    """Where the values of a series stand; None if the run does not say."""
    if axis == "step":
        return series.steps
    if axis == "samples":
        return None if run.samples_per_step is None else series.steps * run.samples_per_step
    return series.times_s - run.start_s


def network_band(group: Group, name: str, axis: str = "step") -> Band | None:
    """A quantity of the whole network, which its last stage measures.

    Runs are averaged step by step. Over another axis, a point stands where the runs were, in the mean, at that step,
    and the curve ends with the shortest run.
    """
    curves, places = [], []
    for run in group.runs:
        found = list(run.of(name).values())
        x = axis_of(run, found[-1], axis) if found else None
        if x is not None:
            known = np.isfinite(found[-1].values) & np.isfinite(x)
            curves.append((found[-1].steps[known], found[-1].values[known]))
            places.append((found[-1].steps[known], x[known]))
    band, at = combine(curves), combine(places)
    if band is None or at is None or axis == "step":
        return band
    whole = band.counts == band.counts.max()
    parts = {name: getattr(band, name)[whole] for name in ("mean", "deviation", "counts")}
    return replace(band, x=at.mean[whole], **parts)


def stage_bands(group: Group, name: str) -> dict[int, Band]:
    """A quantity by stage, over steps."""
    found = {}
    for stage in range(group.num_stages):
        measured = [run.series.get(stage, {}).get(name) for run in group.runs]
        band = combine([(series.steps, series.values) for series in measured if series is not None])
        if band is not None:
            found[stage] = band
    return found


def names_in(groups: list[Group]) -> list[str]:
    """All names under which anything was measured."""
    return sorted({name for group in groups for run in group.runs for stage in run.series.values() for name in stage})


def limits_of(bands: list[Band]) -> tuple[float, float]:
    """Common limits of an axis or a colour for several pictures; of a few wild values the last hundredth is cut off.

    What is positive has a positive lower limit, whatever its spread.
    """
    shifts = [np.nan_to_num(band.deviation) for band in bands]
    values = np.concatenate(
        [band.mean + sign * shift for band, shift in zip(bands, shifts, strict=True) for sign in (-1, 1)]
    )
    low, high = float(values.min()), float(values.max())
    if len(values) >= 100:
        inner_low, inner_high = np.percentile(values, [1, 99])
        if high - low > 5.0 * (inner_high - inner_low) > 0:
            low, high = float(inner_low), float(inner_high)
    least = min(float(band.mean.min()) for band in bands)
    return least if low <= 0 < least else low, high
