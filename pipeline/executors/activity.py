"""What is the thread that drives some stages doing, and for how long has it?

The thread notes it with one assignment; the thread that gives signs of life reads it.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import NamedTuple

from pipeline.stages.stage import Stage

__all__ = ["Activity", "Doing"]

_LONG_S = 1.0
"""To be worth a line on the display."""


@dataclass(frozen=True, kw_only=True)
class Doing:
    """What a rank does at a moment."""

    phase: str
    """`waiting`, `forward`, `checkpoint`, ..."""
    stage: int | None = None
    step: int | None = None
    for_s: float = 0.0
    """How long it has been at it."""

    @property
    def busy(self) -> bool:
        """Whether it works, rather than waits for a message."""
        return self.phase != "waiting"

    def __str__(self) -> str:
        if not self.busy:
            return f"waiting for {self.for_s:.0f} s"
        step = "" if self.step is None else f" of step {self.step:,}"
        return f"busy in {self.phase}{step} for {self.for_s:.0f} s"

    def long_at(self, stage: int) -> str:
        """The same as text if it has been at something of this stage for a second; else empty."""
        return str(self) if self.stage == stage and self.for_s >= _LONG_S else ""

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Doing:
        """What `to_json` wrote."""
        return Doing(**json.loads(text))


class _Noted(NamedTuple):
    phase: str
    """Empty: the stage knows."""
    handled_by: Stage | None
    stage: int | None
    step: int | None
    since_s: float


class Activity:
    """Written by the thread that drives the stages, read by one other."""

    def __init__(self) -> None:
        self._noted = _Noted("set-up", None, None, None, time.monotonic())
        self._seen: tuple[_Noted, str] | None = None
        self._seen_s = 0.0

    def begin(self, phase: str, *, stage: int | None = None, step: int | None = None) -> None:
        """From now on the thread does this."""
        self._noted = _Noted(phase, None, stage, step, time.monotonic())

    def handle(self, stage: Stage, step: int) -> None:
        """From now on a stage handles a message; it knows itself which phase it is in."""
        self._noted = _Noted("", stage, stage.index, step, time.monotonic())

    def look(self) -> Doing:
        """What the thread does now. A phase that began within a message counts from when it was first seen here."""
        noted, now_s = self._noted, time.monotonic()
        phase = noted.phase if noted.handled_by is None else noted.handled_by.learner.phase
        if self._seen is None or self._seen[0] is not noted:
            self._seen_s = noted.since_s
        elif self._seen[1] != phase:
            self._seen_s = now_s
        self._seen = noted, phase
        return Doing(phase=phase, stage=noted.stage, step=noted.step, for_s=now_s - self._seen_s)
