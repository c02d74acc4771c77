"""Are the entries of units found, expanded and added up as one does it by hand?"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dni import NEW, Origin, UnitAxis


@given(
    num_units=st.integers(2, 4),
    block=st.integers(1, 3),
    gaps=st.lists(st.integers(0, 2), min_size=2, max_size=4),
    data=st.data(),
)
def test_units_in_blocks_and_runs_are_found_again_and_follow_entry_by_entry(
    num_units: int, block: int, gaps: list[int], data: st.DataObject
) -> None:
    units, offsets = [-1] * gaps[0], []
    for gap in gaps[1:]:
        offsets.append(len(units))
        units += [unit for unit in range(num_units) for _ in range(block)] + [-1] * gap
    at = UnitAxis.found(units, num_units=num_units)
    assert at == UnitAxis(axis=0, block=block, offsets=tuple(offsets))
    drawn = st.lists(st.integers(NEW, num_units - 1), min_size=1, max_size=5)
    sources = data.draw(drawn)
    origin = Origin(num_old=num_units, sources=tuple(sources), scale=tuple(1 if s == NEW else 0.5 for s in sources))
    expanded = at.expand(origin, len(units))
    expected, index = [], 0
    while index < len(units):
        if index in offsets:
            for source in sources:
                expected += [(NEW, 1) if source == NEW else (index + source * block + i, 0.5) for i in range(block)]
            index += num_units * block
        else:
            expected.append((index, 1))
            index += 1
    assert list(zip(expanded.sources, expanded.scale, strict=True)) == expected
    values = torch.randn(3, len(units), dtype=torch.float64)
    sums = UnitAxis(axis=1, block=block, offsets=tuple(offsets)).sum_by_unit(values, num_units=num_units)
    for unit in range(num_units):
        entries = [entry for entry, own in enumerate(units) if own == unit]
        assert float(sums[unit]) == pytest.approx(float(values[:, entries].sum()), abs=1e-12)


def test_units_that_are_scattered_or_not_all_there_are_not_found() -> None:
    for units in ([0, 2, 1], [0, 1], [0, 0, 1, 2], [-1, -1], [], [0, 1, 2, 0, 1]):
        assert UnitAxis.found(units, num_units=3) is None


def test_units_that_do_not_lie_within_the_axis_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3 units of 2 entries each .* within the 7 entries .* begin at \(2,\)"):
        UnitAxis(axis=0, block=2, offsets=(2,)).expand(Origin.identity(3), 7)
    with pytest.raises(ValueError, match=r"got axis -1, offsets \(0,\), block 1"):
        UnitAxis(axis=-1)
