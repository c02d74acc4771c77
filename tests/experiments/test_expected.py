"""Is expected.csv read as it stands, and is a mean held against it?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.expected import Expected, read_expected

ROW = Expected(row="bp", metric="error", paper=None, source="", trust="FIG", ours=2.0, tolerance=0.5, seeds=3)


def test_empty_cells_are_what_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "expected.csv"
    path.write_text('row,metric,paper,source,trust,ours,tolerance,seeds\nbp,error,,,FIG,2.0,.5,3\nx,"a, b",1.8,,,,,0\n')
    expected = read_expected(path)
    assert list(expected) == ["bp", "x"] and expected["bp"] == ROW
    assert (expected["x"].metric, expected["x"].paper, expected["x"].ours, expected["x"].tolerance) == (
        *("a, b", 1.8, None, None),
    )


def test_mean_is_named_that_lies_outside_its_tolerance_or_was_not_expected() -> None:
    assert ROW.misses(2.5, digits=2) == ROW.misses(1.5, digits=2) == []
    assert ROW.misses(2.75, digits=2, unit=" %") == ["bp: 2.75 % lies outside 2.00 ± 0.50 %"]
    new = replace(ROW, ours=None)
    assert new.misses(2.75, digits=1) == ["bp: expected.csv has no value of ours; the results give 2.8"]
    assert replace(new, tolerance=None, seeds=0).misses(1.0, digits=1) != []


def test_row_that_is_run_without_a_tolerance_is_refused() -> None:
    with pytest.raises(ValueError, match="must give the row bp a tolerance"):
        replace(ROW, tolerance=None, seeds=0)
    with pytest.raises(ValueError, match=r"it has 3 seeds and a value of ours of None"):
        replace(ROW, tolerance=None, ours=None)
