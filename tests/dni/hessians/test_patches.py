"""Is what a layer computes its weight times what it reads at each place?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dni.hessians.patches import check_matrix_layer, inputs_by_place, outputs_by_place


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 3), (4,)),
        (nn.Linear(4, 3), (2, 5, 4)),
        (nn.Conv1d(2, 3, 3, stride=2, padding=1, dilation=2), (2, 9)),
        (nn.Conv1d(2, 3, 4, padding="same", padding_mode="circular"), (2, 9)),
        (nn.Conv2d(2, 3, (3, 2), stride=(1, 2), padding=(2, 1), padding_mode="reflect"), (2, 5, 6)),
        (nn.Conv2d(2, 3, 1), (2, 5, 6)),
    ],
)
def test_output_is_the_weight_times_the_inputs_at_each_place(layer: nn.Module, shape: tuple[int, ...]) -> None:
    matrix = check_matrix_layer("layer", layer)
    x = torch.randn(3, *shape)
    z = matrix(x)
    assert matrix.bias is not None
    found = matrix.weight.flatten(1) @ inputs_by_place(matrix, x) + matrix.bias[:, None]
    torch.testing.assert_close(found, outputs_by_place(matrix, z))


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 4, 3, groups=2), nn.Bilinear(2, 2, 2), nn.Conv3d(1, 1, 1)])
def test_a_layer_whose_weight_is_not_one_matrix_is_refused(layer: nn.Module) -> None:
    with pytest.raises(TypeError, match="'layer' must be a Linear, or a Conv1d or Conv2d of one group"):
        check_matrix_layer("layer", layer)
