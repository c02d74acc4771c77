"""Where does the gradient at a stage's output come from?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dni.members import Members

__all__ = ["GradientSource", "Need", "Signal", "error_of", "gradient_of", "loss_of", "target_of"]


class Need(Flag):
    """What must have arrived at a stage before its source can act."""

    NONE = 0
    TARGET = auto()
    """The labels of the microbatch."""
    ERROR = auto()
    """dL/dy, the loss's gradient at the network's output."""
    LOSS = auto()
    """The loss of each sample, (N,)."""
    GRADIENT = auto()
    """dL/dh from the stage above."""
    INPUT = auto()
    """The input of the whole network."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What a stage knows about one microbatch beside its own output h.

    Gradients are of the loss *summed* over the N samples of the microbatch. A field is None until it has
    arrived.
    """

    step: int
    """Index of the microbatch; schedules are functions of it."""
    target: Tensor | None = None
    """Labels of the microbatch, (N, ...)."""
    gradient: Members | None = None
    """dL/dh, shaped as h: a tensor, or a tuple with None where h is not floating-point."""
    error: Tensor | None = None
    """dL/dy at the network's output y, (N, C)."""
    loss: Tensor | None = None
    """The loss of each sample, (N,)."""
    input: Tensor | None = None
    """The input of the whole network, (N, ...)."""
    goes_on: bool = True
    """Whether the stages above get this microbatch. Those on a slower clock do not get every one; then nothing will
    come from there, and only what never asks for anything of theirs may act and learn (`dni.local_parts`)."""


@runtime_checkable
class GradientSource(Protocol):
    """Supplies dL/dh at the output h of a stage, and may learn to do so better.

    A source is an `nn.Module` that owns its optimiser: `state_dict()` must hold both, and `load_state_dict()`
    must work on a source that was never built. The runtime copies the source it is given, one copy per
    boundary. `h` is a tensor (N, *F) or a tuple of tensors; a source serves the floating-point members. One that is to
    serve a boundary whose units change while the network trains is `Remappable`, too.
    """

    needs: Need
    """What must be in the signal before `estimate`."""
    learns_from: Need
    """What must be in the signal before `learn`; `Need.NONE` if the source never learns."""

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        """Make the parameters for outputs shaped as `h`, a real one; called once, draws from `generator`."""

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        """dL/dh for this microbatch, shaped as `h`, or None: nothing is learned from this step."""

    def learn(self, h: Members, signal: Signal) -> float:
        """Take one step of the source's own regression; return its loss."""

    def state_dict(self) -> dict[str, Any]:
        """Everything the source has learned, its optimiser included."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Become the source that `state_dict` was taken from."""


def target_of(signal: Signal, source: object) -> Tensor:
    """The labels that `source` cannot do without.

    Raises:
        ValueError: they have not arrived.
    """
    if signal.target is None:
        raise ValueError(
            f"{type(source).__name__} needs labels, and the signal of step {signal.step} has no target. "
            "Deliver the labels to every stage, or use SyntheticGradient."
        )
    return signal.target


def gradient_of(signal: Signal, source: object) -> Members:
    """The gradient from above that `source` cannot do without.

    Raises:
        ValueError: it has not arrived.
    """
    if signal.gradient is None:
        raise ValueError(
            f"{type(source).__name__} needs dL/dh for this, and the signal of step {signal.step} has no gradient. "
            "Call when what `needs` or `learns_from` names has arrived."
        )
    return signal.gradient


def error_of(signal: Signal, source: object) -> Tensor:
    """dL/dy at the network's output that `source` cannot do without.

    Raises:
        ValueError: it has not arrived.
    """
    if signal.error is None:
        raise ValueError(
            f"{type(source).__name__} needs dL/dy at the network's output, and the signal of step {signal.step} has no "
            "error. Call when what `needs` names has arrived."
        )
    return signal.error


def loss_of(signal: Signal, source: object) -> Tensor:
    """The loss of each sample that `source` cannot do without.

    Raises:
        ValueError: it has not arrived.
    """
    if signal.loss is None:
        raise ValueError(
            f"{type(source).__name__} needs the loss of each sample, and the signal of step {signal.step} has none. "
            "Call when what `needs` or `learns_from` names has arrived."
        )
    return signal.loss
