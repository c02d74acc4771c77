"""What crosses between stages?

Messages are values: frozen, without behaviour, read with `match`. Do not subclass them. h and gradients are a tensor
or a tuple of tensors; N is the microbatch's number of samples. Every Activation is answered by one Gradient. An
OutputError goes from the last stage straight to each stage whose source asks for it, an Input from the first one
straight to each stage with synthetic inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Activation", "Drain", "Gradient", "Input", "Message", "OutputError", "Payload", "Reshape", "Send", "Stop"]

Payload: TypeAlias = Tensor | tuple[Tensor | None, ...]
"""One tensor, or a tuple of tensors (None where a member carries no gradient)."""


@dataclass(frozen=True, slots=True)
class Activation:
    """A stage's output, on its way to the next stage; from the feed, the network's input."""

    step: int
    """Index of the microbatch; evaluation counts its own."""
    h: Payload
    """The output, (N, *F)."""
    target: Tensor | None = None
    """Labels, (N, ...); they travel with the microbatch, so that every stage may condition on them."""
    reach: int = 0
    """How many stages, counted from the top, use the true gradient at this step."""
    version: int = 0
    """The sender's steps in which any block was applied."""
    generation: int = 0
    """Changes of structure at this boundary so far."""
    training: bool = True
    """False: evaluation, nothing is learned."""
    probe: bool = False
    """Of an evaluation: gradients come back, to be graded (`pipeline.learners.probe`)."""
    ready: torch.cuda.Event | None = field(default=None, compare=False)
    """From when on its tensors may be read; None: now."""


@dataclass(frozen=True, slots=True)
class Gradient:
    """dL/dh of the loss summed over the microbatch, on its way to the stage that made h; answers an Activation."""

    step: int
    value: Payload | None
    """(N, *F), or None: a credit. The activation was dropped, nothing was learned from its step, or the source at the
    boundary makes nothing of a gradient."""
    exact: bool = False
    """Whether every gradient in the chain above was the true one, of the weights of today."""
    version: int = 0
    generation: int = 0
    """Of the boundary, whose units the value is for."""
    dropped: bool = False
    """Whether the activation was dropped from a queue: the work that went into it was for nobody above."""
    quality: float | None = None
    """The lowest cosine with the true gradient that the sources of the sender and above it had when each was last
    compared, in 32 bits; None: none was yet."""
    loss: float | None = None
    """The newest training loss per sample that the sender knows of, in 32 bits; None: nobody asks, or none was yet."""
    ready: torch.cuda.Event | None = field(default=None, compare=False)
    """From when on its tensors may be read; None: now."""


@dataclass(frozen=True, slots=True)
class OutputError:
    """What the loss says of a microbatch, on its way from the last stage to one whose source asks for it.

    They come in the order of steps. A step that is not among them was dropped on its way up.
    """

    step: int
    value: Tensor | None = None
    """dL/dy of the loss summed over the microbatch, (N, C); None: not asked for, or nothing was learned at the top."""
    loss_per_sample: Tensor | None = None
    """(N,); None likewise."""
    ready: torch.cuda.Event | None = field(default=None, compare=False)
    """From when on its tensors may be read; None: now."""


@dataclass(frozen=True, slots=True)
class Input:
    """The network's input, on its way from the first stage straight to one that makes its own input of it.

    It is sent before the first stage's forward, and handled before the Activation of the same step.
    """

    step: int
    x: Payload | None
    """The network's input, (N, ...); None: the step is to be taken as received, because a sync reaches below."""
    target: Tensor | None = None
    """Labels, (N, ...)."""
    reach: int = 0
    """As in the Activation."""
    after: int = 0
    """Messages that are no training steps (evaluation, drains) that the first stage has taken before this one."""
    ready: torch.cuda.Event | None = field(default=None, compare=False)
    """From when on its tensors may be read; None: now."""


@dataclass(frozen=True, slots=True)
class Reshape:
    """From the next Activation on, the units of h are others; it goes up in its place among the activations."""

    step: int
    """Of the event."""
    change: str
    """What becomes of the units, a `dni.UnitChange` as JSON."""
    generation: int
    """Changes of structure at this boundary, this one included."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Take no further microbatch until every activation sent on has been answered."""

    step: int
    """Training steps before this one have all been sent."""
    save: bool = False
    """Write a checkpoint once drained."""
    finish: bool = False
    """The last step was sent: once drained (and saved), apply what is left in the accumulators."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing follows."""

    step: int


Message: TypeAlias = Activation | Gradient | OutputError | Input | Reshape | Drain | Stop


@dataclass(frozen=True, slots=True)
class Send:
    """A message and the stage it is for."""

    to: int
    message: Message
