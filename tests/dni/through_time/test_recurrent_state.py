"""Does a recurrent state survive the way to rows and back, whatever its layout?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni import Unrolled
from dni.through_time.recurrent_state import as_rows, begin_anew, find_sample_axis, from_rows

LAYERED = (torch.arange(24.0).view(2, 3, 4), torch.arange(24.0, 36.0).view(2, 3, 2).double())
"""h and c of a projected LSTM: 2 layers, 3 samples."""


def test_rows_hold_all_numbers_of_a_sample_and_nothing_of_another() -> None:
    rows = as_rows(LAYERED, 1)
    assert rows.shape == (3, 12)
    assert rows[1].tolist() == [4, 5, 6, 7, 16, 17, 18, 19, 26, 27, 32, 33]


def test_from_rows_undoes_as_rows_in_shape_and_dtype() -> None:
    torch.testing.assert_close(from_rows(as_rows(LAYERED, 1), LAYERED, 1), list(LAYERED), rtol=0, atol=0)
    cell = torch.randn(3, 5)
    torch.testing.assert_close(from_rows(as_rows(cell, 0), cell, 0), [cell], rtol=0, atol=0)


def test_members_without_a_gradient_are_no_part_of_the_rows_and_begin_anew_too() -> None:
    state = (torch.ones(3, 2), torch.tensor([4, 5, 6]))
    assert as_rows(state, 0).shape == (3, 2)
    begun = begin_anew(state, torch.tensor([True, False, False]), 0)
    assert isinstance(begun, tuple) and begun[0] is not None and begun[1] is not None
    assert begun[0].tolist() == [[0, 0], [1, 1], [1, 1]] and begun[1].tolist() == [0, 5, 6]


def test_a_state_begun_anew_carries_no_graph() -> None:
    state = (2 * torch.ones(1, 3, 2, requires_grad=True),)
    begun = begin_anew(state, torch.zeros(3, dtype=torch.bool), 1)
    assert isinstance(begun, tuple) and begun[0] is not None and not begun[0].requires_grad


def test_the_axis_of_the_samples_is_that_of_torchs_modules() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.GRU(2, 4)

    assert find_sample_axis(Model()) == find_sample_axis(nn.LSTM(2, 4)) == 1
    assert find_sample_axis(Unrolled(nn.LSTMCell(2, 4))) == 0


@pytest.mark.parametrize(
    ("cell", "module"),
    [(nn.RNNCell(2, 4), nn.RNN(2, 4)), (nn.GRUCell(2, 4), nn.GRU(2, 4)), (nn.LSTMCell(2, 4), nn.LSTM(2, 4))],
)
def test_an_unrolled_cell_is_torchs_recurrent_module(cell: nn.RNNCellBase, module: nn.RNNBase) -> None:
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in module.state_dict().items()})
    x = torch.randn(5, 3, 2)
    y, state = Unrolled(cell)(x)
    expected_y, expected_state = module(x)
    torch.testing.assert_close(y, expected_y)
    members: tuple[Tensor, ...] = state if isinstance(state, tuple) else (state,)
    expected = expected_state if isinstance(expected_state, tuple) else (expected_state,)
    torch.testing.assert_close([member[None] for member in members], list(expected))


def test_a_window_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        Unrolled(nn.GRUCell(2, 4))(torch.randn(0, 3, 2))
