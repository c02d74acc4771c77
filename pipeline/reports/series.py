"""How do the measurements of one quantity become a curve, and those of several seeds a mean and a spread?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_POINTS", "Band", "Floats", "Series", "combine", "thin"]

Floats: TypeAlias = NDArray[np.float64]

MOST_POINTS = 400
"""Of a curve; a picture 350 pixels wide shows no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One quantity over a run, in the order it was written down."""

    steps: Floats
    """(T,)"""
    times_s: Floats
    """(T,), seconds since the epoch."""
    values: Floats
    """(T,)"""

    @property
    def last(self) -> float:
        """The newest value that is a number; NaN if there is none."""
        known = self.values[np.isfinite(self.values)]
        return float(known[-1]) if len(known) else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The mean of several curves, and how far they lie apart."""

    x: Floats
    """(T,), ascending."""
    mean: Floats
    """(T,)"""
    deviation: Floats
    """(T,), standard deviation (n - 1); NaN where only one curve has a value."""
    counts: Floats
    """(T,), curves that have a value there."""


def thin(x: Floats, y: Floats, *, most: int = MOST_POINTS) -> tuple[Floats, Floats]:
    """A curve of at most `most` points: the means of as many consecutive points each, in x and in y.

    Nothing is picked out, so a peak becomes lower but never disappears, and what is shown is an average of what was
    measured. Values that are not finite are left out first.
    """
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) <= most:
        return x, y
    size = -(-len(x) // most)
    starts = np.arange(0, len(x), size)
    counts = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def combine(curves: Sequence[tuple[Floats, Floats]], *, most: int = MOST_POINTS) -> Band | None:
    """Mean and standard deviation of several curves at common places.

    Where all have the same x, these are the places. Otherwise they are all x of all curves (at most `most`, evenly
    spaced), and each curve is interpolated between its own points and counts nowhere else.

    Returns:
        None if no curve has a point.
    """
    thinned = [(x, y) for x, y in (thin(*_ascending(x, y), most=most) for x, y in curves) if len(x)]
    if not thinned:
        return None
    places = thinned[0][0]
    if any(len(x) != len(places) or not np.array_equal(x, places) for x, _ in thinned[1:]):
        places = np.unique(np.concatenate([x for x, _ in thinned]))
        if len(places) > most:
            places = np.linspace(places[0], places[-1], most)
    rows = np.stack([np.interp(places, x, y, left=np.nan, right=np.nan) for x, y in thinned])
    known = np.isfinite(rows)
    count = known.sum(axis=0)
    mean = np.where(known, rows, 0.0).sum(axis=0) / np.maximum(count, 1)
    squares = np.where(known, (rows - mean) ** 2, 0.0).sum(axis=0)
    deviation = np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)
    some = count > 0
    return Band(x=places[some], mean=mean[some], deviation=deviation[some], counts=count[some].astype(float))


def _ascending(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """By x; of several values at one x (a stage's averages and a test, or a step repeated after a resume) the mean."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 2 or bool(np.all(np.diff(x) > 0)):
        return x, y
    places, where = np.unique(x, return_inverse=True)
    return places, np.bincount(where, weights=y) / np.bincount(where)
