"""Are a tensor and a tuple of tensors treated as one thing?"""

from __future__ import annotations

import torch

from dni import as_tuple, carriers, like, map_members, num_samples

FLOATS = torch.randn(3, 2)
INTEGERS = torch.arange(3)


def test_as_tuple_wraps_a_tensor_and_leaves_a_tuple() -> None:
    assert as_tuple(FLOATS) == (FLOATS,)
    assert as_tuple((FLOATS, None)) == (FLOATS, None)


def test_carriers_are_the_floating_point_members_in_order() -> None:
    other = torch.zeros(3, dtype=torch.float64)
    found = carriers((INTEGERS, FLOATS, None, other))
    assert found[0] is FLOATS and found[1] is other and len(found) == 2


def test_like_gives_none_to_members_without_a_gradient() -> None:
    value = torch.ones(3, 2)
    assert like(FLOATS, [value]) is value
    assert like((INTEGERS, FLOATS, None), [value]) == (None, value, None)


def test_map_members_maps_every_member_that_is_there() -> None:
    mapped = map_members(lambda member: member + 1, (INTEGERS, None))
    assert isinstance(mapped, tuple) and mapped[1] is None
    assert mapped[0] is not None and mapped[0].tolist() == [1, 2, 3]
    assert torch.equal(as_tuple(map_members(torch.neg, FLOATS))[0], -FLOATS)


def test_num_samples_is_the_first_axis_of_the_first_member_that_is_there() -> None:
    assert num_samples(FLOATS) == 3
    assert num_samples((None, INTEGERS)) == 3
    assert num_samples((None,)) == 0
