"""What does a stage cost that sleeps instead of computing?

A sleeping stage occupies its rank's thread as a device would, and no core: 8 ranks then behave like 8 devices on a
machine of 2 cores. Half of the backward's sleep lies on the way to the input and half on the way to the weight, so
that schedules which take the two apart (zero bubble) can.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.spans import Span
from pipeline.clock import WallClock

__all__ = ["SleepingStage"]


class SleepingStage(nn.Module):
    """A linear map of tiny tensors that sleeps.

    Args:
        width: features in and out.
        forward_s: sleep of a forward.
        backward_s: sleep of a backward, whichever gradients it is for; the first stage has one too.
        pause_s: a further sleep, once.
        pause_at: the forward in which it lies, counted from 0.
        chunk: which of its rank's stages this is.
    """

    def __init__(
        self,
        width: int,
        *,
        forward_s: float,
        backward_s: float,
        pause_s: float = 0.0,
        pause_at: int = 0,
        chunk: int = 0,
    ) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(width))  # gives the first stage a way to the input as well
        self.weight = nn.Parameter(torch.eye(width) + 0.1 * torch.randn(width, width))
        self.spans: list[Span] = []
        """What the stage has slept."""
        self._forward_s, self._half_s = forward_s, backward_s / 2
        self._pause_s, self._pause_at = pause_s, pause_at
        self._chunk = chunk
        self._clock = WallClock()
        self._num_forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        step, self._num_forwards = self._num_forwards, self._num_forwards + 1
        seconds = self._forward_s + (self._pause_s if step == self._pause_at else 0.0)
        x = _Sleep.apply(x + self.shift, self, step, seconds, "B")
        weight = _Sleep.apply(self.weight, self, step, 0.0, "W")
        return F.linear(x, weight)

    def sleep(self, operation: str, step: int, seconds: float) -> None:
        """Sleep, and remember it."""
        start_s = self._clock.now()
        time.sleep(seconds)
        self.spans.append(Span(operation, step, start_s, self._clock.now(), self._chunk))

    def sleep_backward(self, operation: str, step: int) -> None:
        """One of the two halves of a backward."""
        self.sleep(operation, step, self._half_s)


class _Sleep(torch.autograd.Function):
    """The identity; its forward sleeps for some seconds, its backward for half a backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stage: SleepingStage, step: int, seconds: float, backward: str) -> Tensor:
        ctx.stage, ctx.step, ctx.backward = stage, step, backward
        if seconds:
            stage.sleep("F", step, seconds)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        ctx.stage.sleep_backward(ctx.backward, ctx.step)
        return gradient, None, None, None, None
