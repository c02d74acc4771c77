"""What goes wrong in a run, and exactly when?

Faults are layers and sources that count steps; each notes the time just before it strikes. Without a fault they pass
everything on, and have the same names in a checkpoint.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dni import ConditionalSyntheticGradient, Members, Signal
from pipeline import Adam

__all__ = ["FailingSource", "Fault", "Faulty", "fail", "failing_adam", "fill_disk", "kill", "noted", "pause"]

Fault = Callable[[], None]
_FILE_BYTES = 64 * 1024
"""Room that a full disk has left: less than a stage's file takes, more than metrics and trace have."""


class Faulty(nn.Module):
    """Passes its input on; at step `step` of `phase` something happens.

    It counts its own training forwards, from `start` on; the copies that a run's checks make count for themselves.

    Args:
        phase: forward, backward, checkpoint or evaluation; empty: nothing ever happens.
        step: of which forward or backward; of the first checkpoint or evaluation that is no earlier.
        fault: what happens.
    """

    def __init__(self, phase: str = "", *, step: int = 0, fault: Fault = lambda: None) -> None:
        super().__init__()
        self.phase, self.step, self.fault = phase, step, fault
        self.count = 0
        self.register_state_dict_pre_hook(self._before_saving)

    def forward(self, h: Tensor) -> Tensor:
        if not self.training:
            self._strike("evaluation", self.count >= self.step)
            return h
        now, self.count = self.count, self.count + 1
        self._strike("forward", now == self.step)
        self._strike("slow", now >= self.step)
        if self.phase == "backward" and now == self.step:
            h.register_hook(lambda gradient: self.fault())
        return h

    def _strike(self, phase: str, now: bool) -> None:
        if self.phase == phase and now:
            self.fault()

    def _before_saving(self, *_: Any) -> None:
        self._strike("checkpoint", self.count >= self.step)


class FailingSource(ConditionalSyntheticGradient):
    """Strikes when it is to learn from step `step`."""

    def __init__(self, num_classes: int, *, step: int, fault: Fault) -> None:
        super().__init__(num_classes)
        self.step, self.fault = step, fault

    def learn(self, h: Members, signal: Signal) -> float:
        if signal.step == self.step:
            self.fault()
        return super().learn(h, signal)


def failing_adam(step: int, fault: Fault) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    """Makes an Adam that strikes before its update number `step`, counted from 0."""

    def make(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer, count = Adam()(parameters), 0

        def count_and_strike(*_: Any) -> None:
            nonlocal count
            count += 1
            if count == step + 1:
                fault()

        optimizer.register_step_pre_hook(count_and_strike)
        return optimizer

    return make


def noted(folder: Path, fault: Fault) -> Fault:
    """The same, after its time was written down; only the first time, as it may strike again while a run ends."""

    def strike() -> None:
        path = folder / "fault"
        if not path.exists():
            path.write_text(repr(time.time()))
        fault()

    return strike


def fail() -> None:
    """Raise."""
    raise ArithmeticError("scripted fault")


def kill(pid: int | None = None) -> None:
    """SIGKILL, by default to this process."""
    os.kill(pid or os.getpid(), signal.SIGKILL)


def pause(seconds: float) -> None:
    """SIGSTOP to this process, and SIGCONT from another one after a while."""
    subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)


def fill_disk() -> None:
    """From now on this process cannot write a file as large as a stage's."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
