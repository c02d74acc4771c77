"""How does a layer carry what it remembers from one microbatch to the next?

Letters: N samples, T steps of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dni import Members, Unrolled, carriers, map_members, num_samples

__all__ = ["Carried", "Carrying"]


@dataclass(frozen=True, slots=True)
class Carried:
    """What a layer remembers after a microbatch."""

    step: int
    """Of that microbatch."""
    num_samples: int
    """N; the next microbatch has to be of the same streams."""
    state: Members
    """Without a graph: a tensor, or a tuple of tensors."""

    @staticmethod
    def of(state: Members, *, step: int, num_samples: int) -> Carried:
        """A copy, so that nothing that is done to the output, which may be the same tensor, changes what is carried."""
        return Carried(step, num_samples, map_members(_copied, state))


class Carrying(nn.Module):
    """Carry a recurrent core's state from one microbatch to the next, without its graph.

    The microbatches are windows of N streams that go on from one to the next (`StreamBatches`), so that a stage with
    such layers learns by truncated backpropagation through time, the window being the microbatch. In a plain loop the
    layer carries from call to call. In a run the stage owns what is carried: what is kept with a microbatch is run
    again from the state that it began with, evaluations and probes begin anew and disturb nothing, and a checkpoint
    holds the state. A copy of the layer begins anew. It cannot stand inside `torch.utils.checkpoint`, whose second
    forward would begin from another state; its core may use that.

        Carrying(nn.LSTM(8, 16, batch_first=True))  # x (N, T, 8)
        Carrying(nn.GRUCell(8, 16))                 # x (N, 8): a microbatch is one step
        Carrying(Unrolled(nn.GRUCell(8, 16)))       # x (N, T, 8)

    Args:
        core: called as core(x, state), x (N, ...); returns the output (N, ...) and the next state, a tensor or a tuple
            of tensors. The state is None at the beginning. torch's RNN, GRU and LSTM, their cells (the output is the
            state, or its first member) and `Unrolled` are called as they want it.
        period: microbatches of this stage after which the streams begin anew, as after an epoch of `StreamBatches`; 0:
            never. It counts steps, so one that a queue dropped does not shift it.

    Raises:
        ValueError: the period is negative, or torch's RNN does not have the batch first; at a call, if N is not that of
            the state, or x of torch's RNN is not (N, T, F).
        TypeError: at a call, if the core returns something else.
    """

    def __init__(self, core: nn.Module, *, period: int = 0) -> None:
        super().__init__()
        if period < 0:
            raise ValueError(f"period must be at least 1, or 0 (never begin anew), got {period}.")
        if isinstance(core, nn.RNNBase) and not core.batch_first:
            raise ValueError(
                f"{type(core).__name__} must have the samples first, as everything that crosses a boundary. "
                "Make it with batch_first=True."
            )
        self.core = core
        self.period = period
        self.step = 0
        """Of the next microbatch, counted from 0."""
        self.carried: Carried | None = None
        """What it goes on from; None: it begins."""

    def forward(self, x: Members) -> Members:
        """x (N, ...) to the output (N, ...); the state goes on."""
        step, self.step = self.step, self.step + 1
        count = num_samples(x)
        y, state = self._call(x, self._begun_with(step, count))
        self.carried = Carried.of(state, step=step, num_samples=count)
        return y

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"step": 0, "carried": None}

    def extra_repr(self) -> str:
        return f"period={self.period}" if self.period else ""

    def _begun_with(self, step: int, count: int) -> Members | None:
        carried = self.carried
        if carried is None or (self.period and carried.step // self.period != step // self.period):
            return None
        if carried.num_samples != count:
            raise ValueError(
                f"a layer that carries state must be given as many samples each time, a stream each: "
                f"{type(self.core).__name__} carries {carried.num_samples} from step {carried.step} and is given "
                f"{count} at step {step}. Leave out a shorter last batch (drop_last=True), or let the streams begin "
                "anew there (period)."
            )
        return carried.state

    def _call(self, x: Members, state: Members | None) -> tuple[Members, Members]:
        core = self.core
        if isinstance(core, nn.RNNCellBase):
            state = core(x, state)
            return carriers(state)[0], state
        if isinstance(core, Unrolled):
            assert isinstance(x, Tensor)
            y, state = core(x.transpose(0, 1), state)
            return y.transpose(0, 1), state
        if isinstance(core, nn.RNNBase) and (not isinstance(x, Tensor) or x.dim() != 3):
            found = tuple(x.shape) if isinstance(x, Tensor) else f"a tuple of {len(x)}"
            raise ValueError(
                f"{type(core).__name__} must be given (N, T, F), got {found}; of a matrix it makes one stream without "
                "samples. Use the cell for a step at a time."
            )
        return _checked(core(x, state), core)


def _checked(returned: object, core: nn.Module) -> tuple[Members, Members]:
    if isinstance(returned, tuple) and len(returned) == 2:
        y, state = returned
        members = state if isinstance(state, tuple) else (state,)
        if all(member is None or isinstance(member, Tensor) for member in members) and state is not None:
            return y, state
    raise TypeError(
        "the core of a layer that carries state must return its output and its next state, a tensor or a tuple of "
        f"tensors, got {type(returned).__name__} from {type(core).__name__}. Wrap it in a module that does."
    )


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)
