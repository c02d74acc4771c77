"""Does a parameter become what is planned, and does what follows it beside the optimiser's state?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dni import AxisChange, Origin, TensorChange, apply_change, check_untied, follow_tensor

SHAPE = (3, 4)
AXES = (
    AxisChange(axis=0, origin=Origin.duplicate([1, 1, 2], num_old=3), side="producer"),
    AxisChange(axis=-1, origin=Origin.append(2, num_old=4).then(Origin.duplicate([0], num_old=6)), side="consumer"),
)


def test_gradient_sums_masks_and_averages_follow() -> None:
    gradient, average, value = (torch.randn(shape, dtype=torch.float64) for shape in (SHAPE, SHAPE, (6, 7)))
    mask, change = gradient > 0, TensorChange(axes=AXES, value=value)
    mapped_gradient, mapped_average, mapped_mask = (
        follow_tensor(gradient, "gradient", change, value=value),
        follow_tensor(average, "average", change, value=value),
        follow_tensor(mask, "mask", change, value=value),
    )
    rows, columns = AXES[0].origin, AXES[1].origin
    for i, row in enumerate(rows.sources):
        for j, column in enumerate(columns.sources):
            is_new = column == -1
            assert mapped_gradient[i, j] == (0 if is_new else rows.scale[i] * gradient[row, column])
            assert mapped_mask[i, j] == (is_new or mask[row, column])
            assert mapped_average[i, j] == (value[i, j] if is_new else columns.scale[j] * average[row, column])
    assert mapped_mask.dtype == torch.bool


def test_average_begins_with_the_value_where_entries_begin_anew() -> None:
    average, value, anew = torch.randn(SHAPE), torch.randn(SHAPE), torch.rand(SHAPE) < 0.5
    change = TensorChange(value=value, anew=anew)
    assert torch.equal(follow_tensor(average, "average", change, value=value), torch.where(anew, value, average))
    assert torch.equal(follow_tensor(average, "gradient", change, value=value), average)


def test_parameter_becomes_the_value_planned_or_what_its_axes_make_of_it() -> None:
    old = torch.randn(SHAPE, dtype=torch.float64)
    mapped = apply_change(old, TensorChange(axes=AXES))
    assert torch.equal(mapped[:3, 1:4], old[:, 1:]) and torch.equal(mapped[:3, 0], old[:, 0] / 2)
    assert not mapped[:, 4:6].any()
    value = torch.ones(6, 7)
    planned = apply_change(old, TensorChange(axes=AXES, value=value))
    assert planned.dtype == torch.float64 and torch.equal(planned, value.double())
    planned.add_(1)
    mapped.add_(1)
    assert torch.equal(value, torch.ones(6, 7))
    same = apply_change(old, TensorChange())
    assert torch.equal(same, old) and same.data_ptr() != old.data_ptr()


def test_what_does_not_fit_is_refused() -> None:
    old, change = torch.ones(SHAPE), TensorChange(axes=AXES)
    with pytest.raises(ValueError, match=r"becomes \(6, 7\) by its changes, but the value given for it is \(6, 6\)"):
        apply_change(old, TensorChange(axes=AXES, value=torch.ones(6, 6)))
    with pytest.raises(TypeError, match="complex parameters cannot change"):
        apply_change(old.to(torch.complex64), change)
    with pytest.raises(ValueError, match=r"must have its parameter's shape, but this average .* becomes"):
        follow_tensor(old, "average", change, value=torch.ones(6, 6))
    with pytest.raises(ValueError, match="is a gradient, an average or a mask, got 'moment'"):
        follow_tensor(old, "moment", change, value=torch.ones(6, 7))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'producer', the 'consumer' or the 'predictor' of an axis, got 'both'"):
        AxisChange(axis=0, origin=Origin.identity(3), side="both")  # type: ignore[arg-type]


def test_tied_and_unknown_parameters_are_refused_by_all_their_names() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    with pytest.raises(ValueError, match=r"one place, but 0\.weight and 1\.weight are tied. Untie them"):
        check_untied(network, "0.weight")
    with pytest.raises(ValueError, match=r"no parameter '2\.weight' in the network; it has 0\.weight"):
        check_untied(network, "2.weight")
