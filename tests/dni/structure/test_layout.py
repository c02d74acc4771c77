"""Does an axis follow that holds the units flattened, or other things beside them?"""

from __future__ import annotations

import pytest
import torch

from dni import NEW, Origin
from dni.structure.layout import beside, flattened, tiled

ORIGIN = Origin(num_old=3, sources=(2, NEW, 0, 0), scale=(1.0, 1.0, 0.5, 0.5))


def test_what_lies_beside_the_units_stays() -> None:
    row = torch.tensor([1.0, 2.0, 3.0, 8.0, 9.0])
    assert beside(ORIGIN, 2).apply(row, 0).tolist() == [3.0, 0.0, 0.5, 0.5, 8.0, 9.0]


@pytest.mark.parametrize("units_last", [False, True])
def test_a_flattened_axis_follows_as_if_it_were_not_flattened(units_last: bool) -> None:
    h = torch.randn(5, *((4, 3) if units_last else (3, 4)))
    followed = ORIGIN.apply(h, 2 if units_last else 1)
    assert torch.equal(flattened(ORIGIN, 12, units_last=units_last).apply(h.flatten(1), 1), followed.flatten(1))


def test_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="hold each of the 3 units equally often, got 7 entries"):
        flattened(ORIGIN, 7, units_last=False)
    with pytest.raises(ValueError, match="once or more, got 0 times"):
        tiled(ORIGIN, 0)
