"""Are final numbers written with the spread that they have?"""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev

import pytest

from pipeline.reports.numbers import FINAL, spread, values_of
from pipeline.reports.reading import read_run
from tests.pipeline.reports.folders import make_run


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.9320, 0.9361, 0.9293], f"{mean([0.9320, 0.9361, 0.9293]):.4f} ± {stdev([0.9320, 0.9361, 0.9293]):.4f}"),
        ([3016.0, 2600.0], "2,808 ± 294"),
        ([0.25], "0.25"),
        ([600.0, 600.0], "600"),
        ([0.5, None], "0.5 (1 of 2)"),
        ([None, None], "-"),
        ([135562.0], "135,562"),
        ([1.0, 1.0 + 3e-9], "1 ± 2e-09"),
    ],
)
def test_spread_is_the_mean_and_the_deviation_of_what_is_known(values: list[float | None], said: str) -> None:
    assert spread(values) == said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0, 3.0, float("inf")], "2.0 ± 1.4 (2 of 3, 1 not finite)"),
        ([0.5, None, float("nan")], "0.5 (1 of 3, 1 not finite)"),
        ([float("-inf"), float("nan")], "2 not finite"),
    ],
)
def test_diverged_runs_are_counted_and_not_averaged(values: list[float | None], said: str) -> None:
    """In 0.3, one infinite value among several ended the whole report."""
    assert spread(values) == said


def test_final_numbers_come_from_the_summary_or_from_what_was_measured_last(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / "whole")), read_run(make_run(tmp_path / "cut", summary=False))]
    found = {quantity.name: values_of(quantity, runs) for quantity in FINAL}
    assert found["test accuracy"] == [0.9, 0.9] and found["train loss"] == [1.1, 1.1]
    assert found["steps"] == [40.0, 41.0], "the test at the end is of step 40"
    assert found["wall time, s"] == [5.0, None] and found["waiting, share of time"] == [0.25, None]
    assert found["parameters"] == [200.0, None] and found["staleness, largest"] == [2.0, None]
