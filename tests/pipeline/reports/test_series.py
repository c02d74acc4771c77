"""Is what a curve shows the mean, and the spread, of what was measured?"""

from __future__ import annotations

from statistics import mean, stdev

import numpy as np
import pytest

from pipeline.reports.series import combine, thin


def test_curves_at_the_same_places_have_the_mean_and_deviation_of_each_place() -> None:
    x = np.array([0.0, 1.0, 5.0])
    seeds = [[1.0, 2.0, 3.0], [2.0, 2.5, 1.0], [4.0, 0.0, 2.0]]
    band = combine([(x, np.array(values)) for values in seeds])
    assert band is not None
    columns = list(zip(*seeds, strict=True))
    np.testing.assert_allclose(band.x, x, rtol=0, atol=0)
    np.testing.assert_allclose(band.mean, [mean(column) for column in columns], rtol=1e-14)
    np.testing.assert_allclose(band.deviation, [stdev(column) for column in columns], rtol=1e-14)


def test_shorter_curve_counts_only_where_it_has_values_and_is_interpolated_there() -> None:
    long = (np.array([0.0, 2.0, 4.0]), np.array([0.0, 2.0, 4.0]))
    short = (np.array([1.0, 3.0]), np.array([5.0, 5.0]))
    band = combine([long, short])
    assert band is not None
    np.testing.assert_allclose(band.x, [0, 1, 2, 3, 4])
    np.testing.assert_allclose(band.counts, [1, 2, 2, 2, 1])
    np.testing.assert_allclose(band.mean, [0.0, (1 + 5) / 2, (2 + 5) / 2, (3 + 5) / 2, 4.0])
    assert np.isnan(band.deviation[[0, 4]]).all() and band.deviation[2] == pytest.approx(stdev([2.0, 5.0]))


def test_values_that_are_not_finite_are_left_out_and_repeated_places_averaged() -> None:
    band = combine([(np.array([0.0, 1.0, 1.0, 2.0]), np.array([1.0, 2.0, 4.0, np.nan]))])
    assert band is not None
    np.testing.assert_allclose(band.x, [0, 1])
    np.testing.assert_allclose(band.mean, [1, 3])


def test_nothing_to_show_is_none() -> None:
    assert combine([]) is None and combine([(np.array([0.0]), np.array([np.nan]))]) is None


@pytest.mark.parametrize("length", [1, 7, 8, 9, 1000, 1003])
def test_thinned_series_is_made_of_means_of_consecutive_points(length: int) -> None:
    x, y = np.arange(length, dtype=float), np.sin(np.arange(length)) * 3.0
    thin_x, thin_y = thin(x, y, most=8)
    size = -(-length // 8) if length > 8 else 1
    pieces = [slice(start, start + size) for start in range(0, length, size)]
    assert len(thin_x) == len(pieces) <= 8
    np.testing.assert_allclose(thin_x, [x[piece].mean() for piece in pieces])
    np.testing.assert_allclose(thin_y, [y[piece].mean() for piece in pieces])
