"""Faults on demand: a layer that does something terrible at a step of its own."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Fault = Literal["raise", "kill", "nan"]


class FailAt(nn.Module):
    """Passes its input on, until training step `step` (None: always).

    It counts its own training forwards, from `start` on; the copies that a run's checks make count for themselves.
    """

    def __init__(self, step: int | None, fault: Fault = "raise", *, start: int = 0) -> None:
        super().__init__()
        self.step = step
        self.fault = fault
        self.count = start

    def forward(self, h: Tensor) -> Tensor:
        if not self.training:
            return h
        now, self.count = self.count, self.count + 1
        if now != self.step:
            return h
        match self.fault:
            case "raise":
                raise ArithmeticError("scripted fault")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
                return h
            case "nan":
                return h * torch.nan


@dataclass(frozen=True)
class FailAtUpdate:
    """An optimiser's factory: the optimiser raises at its update `number`, counted from 0."""

    factory: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    number: int

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = self.factory(parameters)
        calls = itertools.count()

        def fail(*_: Any) -> None:
            if next(calls) == self.number:
                raise ArithmeticError("scripted fault")

        optimizer.register_step_pre_hook(fail)
        return optimizer
