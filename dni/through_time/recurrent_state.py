"""How does the state of a recurrent network become one row per sample, and a row a state again?

torch's RNN, GRU and LSTM carry (L, N, H), samples on axis 1; cells carry (N, H), samples on axis 0. Letters: L layers,
N samples, H units, S the numbers that make up one sample's state: all layers, and h and c of an LSTM together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.members import Members, as_tuple, carriers, map_members

__all__ = ["Unrolled", "as_rows", "begin_anew", "find_sample_axis", "from_rows"]


class Unrolled(nn.Module):
    """Run a cell over the steps of a window: torch's RNNCell, GRUCell, LSTMCell, or one of your own.

    Args:
        cell: called as cell(x_t, state) with x_t (N, *F); returns the next state, a tensor or a tuple of tensors, whose
            first member is also the output of the step. The state is None at the beginning of sequences.
    """

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, state: Members | None = None) -> tuple[Tensor, Members]:
        """x (T, N, *F) and a state, to the outputs (T, N, H) and the state after the last step."""
        if x.shape[0] == 0:
            raise ValueError(f"a window must hold at least one step, got x of shape {tuple(x.shape)}.")
        outputs = []
        for x_t in x:
            state = self.cell(x_t, state)
            outputs.append(carriers(state)[0])
        assert state is not None
        return torch.stack(outputs), state


def find_sample_axis(core: object) -> int:
    """The axis of N in the members of the state: 1 for what holds torch's RNN, GRU or LSTM, else 0."""
    layered = isinstance(core, nn.Module) and any(isinstance(module, nn.RNNBase) for module in core.modules())
    return 1 if layered else 0


def as_rows(state: Members, axis: int) -> Tensor:
    """The floating-point members of `state`, flattened and joined: (N, S)."""
    return torch.cat([member.movedim(axis, 0).flatten(1) for member in carriers(state)], dim=1)


def from_rows(rows: Tensor, state: Members, axis: int) -> list[Tensor]:
    """The inverse of `as_rows`: a tensor for each floating-point member of `state`, in its shape and dtype."""
    moved = [member.movedim(axis, 0) for member in carriers(state)]
    parts = torch.split(rows, [member[0].numel() for member in moved], dim=1)
    pairs = zip(parts, moved, strict=True)
    return [part.reshape(member.shape).movedim(0, axis).to(member.dtype) for part, member in pairs]


def begin_anew(state: Members, rows: Tensor, axis: int) -> Members:
    """The state without its graph, zero for the samples that `rows`, (N,) bool, names: their next sequence begins.

    Raises:
        ValueError: a member's axis `axis` is not the N of `rows`.
    """
    for member in as_tuple(state):
        if member is None or member.dim() <= axis or member.shape[axis] != rows.shape[0]:
            raise ValueError(
                f"every member of a recurrent state must have the {rows.shape[0]} samples of x on axis {axis}, got "
                f"{'None' if member is None else f'shape {tuple(member.shape)}'}. Set sample_axis to the axis of the "
                "samples: 1 for torch's RNN, GRU and LSTM, 0 for cells."
            )

    def reset(member: Tensor) -> Tensor:
        mask = rows.view(-1, *(1,) * (member.dim() - axis - 1))
        return member.detach().masked_fill(mask, 0)

    return map_members(reset, state)
