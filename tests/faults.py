"""Faults on demand: layers, sources and optimisers that do something terrible at a step of their own."""

from __future__ import annotations

import itertools
import math
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dni import Members, Need, Signal, map_members

Fault = Literal["raise", "kill", "stop", "terminate", "nan"]
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "terminate": signal.SIGTERM}


class FailAt(nn.Module):
    """Passes its input on, until training step `step` (None: always).

    It counts its own training forwards, from `start` on; the copies that a run's checks make count for themselves.
    Signals are sent to the process `pid`, by default the one it runs in.
    """

    def __init__(self, step: int | None, fault: Fault = "raise", *, start: int = 0, pid: int | None = None) -> None:
        super().__init__()
        self.step = step
        self.fault = fault
        self.count = start
        self.pid = pid

    def forward(self, h: Tensor) -> Tensor:
        if not self.training:
            return h
        now, self.count = self.count, self.count + 1
        if now != self.step:
            return h
        match self.fault:
            case "raise":
                raise ArithmeticError("scripted fault")
            case "nan":
                return h * torch.nan
            case sent:
                os.kill(self.pid or os.getpid(), _SIGNALS[sent])
                return h


class FailBackwardAt(nn.Module):
    """Passes its input on; the backward of training step `step` raises. Counts as `FailAt` does."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step
        self.count = 0

    def forward(self, h: Tensor) -> Tensor:
        if not self.training:
            return h
        now, self.count = self.count, self.count + 1
        return _FailingBackward.apply(h) if now == self.step else h


class _FailingBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, h: Tensor) -> Tensor:
        return h.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        raise ArithmeticError("scripted fault")


class FailEvaluation(nn.Module):
    """Passes its input on, except in evaluation."""

    def forward(self, h: Tensor) -> Tensor:
        if not self.training:
            raise ArithmeticError("scripted fault")
        return h


class FailingSource(nn.Module):
    """Says zero, and raises when it is asked, or when it is to learn, from `step` on."""

    needs = Need.NONE
    learns_from = Need.GRADIENT

    def __init__(self, *, estimate: float = math.inf, learn: float = math.inf) -> None:
        super().__init__()
        self.steps = {"estimate": estimate, "learn": learn}

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        pass

    def estimate(self, h: Members, signal: Signal) -> Members:
        self._fail("estimate", signal.step)
        return map_members(torch.zeros_like, h)

    def learn(self, h: Members, signal: Signal) -> float:
        self._fail("learn", signal.step)
        return 0.0

    def _fail(self, what: str, step: int) -> None:
        if step >= self.steps[what]:
            raise ArithmeticError("scripted fault")


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
