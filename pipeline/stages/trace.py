"""What did a stage do, in order, and what did it measure?

Events are written in the pipeline notation: `2F0` is stage 2, forward, step 0; `B` is the backward with the estimate
that starts it, `R` a forward run again for it, `U` an update, `L` the source's learning, `I` a synthetic input being
made, `N` its network's learning, `C` a change of structure, `S` marks a sync step, `D` a step that was dropped or not
learned from.

Beside the events stands the order in which the stage handled messages, which is all that a replay needs: `A0` an
activation, `G0` a gradient, `O0` what the last stage says of a step, `I0` the network's input of a step, `X0` an
activation that was dropped, `E0` one of an evaluation, `P9` a probe, `W7` other units from below, `D8` a drain before
step 8 (`s`: it saves, `f`: it finishes the run), `Z8` the stop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from pipeline.clock import Clock
from pipeline.messages import Activation, Drain, Gradient, Input, Message, OutputError, Reshape, Stop
from pipeline.stages.histogram import Histogram, binned

__all__ = ["Event", "Recorder", "Totals", "notation"]


def notation(message: Message) -> str:
    """A message that is handled, as the order has it."""
    match message:
        case Activation(step=step, training=training, probe=probe):
            return f"A{step}" if training else f"P{step}" if probe else f"E{step}"
        case Gradient(step=step):
            return f"G{step}"
        case OutputError(step=step):
            return f"O{step}"
        case Input(step=step):
            return f"I{step}"
        case Reshape(step=step):
            return f"W{step}"
        case Drain(step=step, save=save, finish=finish):
            return f"D{step}{'s' * save}{'f' * finish}"
        case Stop(step=step):
            return f"Z{step}"


class Event(NamedTuple):
    """One operation of a stage."""

    operation: str
    step: int
    start_s: float
    end_s: float
    version: int
    reach: int

    def name(self, stage: int) -> str:
        """The event in pipeline notation, as `2F0`."""
        return f"{stage}{self.operation}{self.step}"


@dataclass
class Totals:
    """Sums over the life of one recorder."""

    busy_s: float = 0.0
    wait_s: float = 0.0
    num_samples: int = 0
    """Samples forwarded in training."""
    handled: int = 0
    """Messages handled."""
    overhead_s: float = 0.0
    """Of the thread that drives the stage: its time beside waiting, data, saving, evaluation and the operations."""
    dropped: int = 0
    """Activations dropped from the stage's queue."""
    too_stale: int = 0
    """Gradients that came later than `max_staleness` allows, and were not used."""
    dropped_s: float = 0.0
    """Of the busy seconds: forwards whose output the stage above dropped."""
    operations: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Busy seconds by operation."""
    block_updates: dict[str, int] = field(default_factory=dict)
    """Of a stage whose blocks have cadences of their own, in the whole run: updates by block."""
    changes: dict[str, int] = field(default_factory=dict)
    """Changes of structure by event."""


class Recorder:
    """Takes down what one stage does. The stage calls it; monitors and simulators read it.

    Args:
        stage: the stage's index.
        clock: the time by which operations are measured.
    """

    def __init__(self, stage: int, clock: Clock) -> None:
        self.stage = stage
        self.clock = clock
        self.totals = Totals()
        self._start_s = 0.0
        self._events: list[Event] = []
        self._write_order: Callable[[str], object] = lambda message: None
        self._values: list[tuple[str, int, float]] = []
        self._changes: list[tuple[int, str]] = []
        self._histograms: list[tuple[str, int, Histogram]] = []

    def begin(self) -> None:
        """An operation starts now."""
        self._start_s = self.clock.now()

    def end(self, operation: str, step: int, *, version: int, reach: int = 0) -> float:
        """The operation that `begin` started has ended; returns the seconds it took."""
        end_s = self.clock.spend(self.stage, operation)
        elapsed_s = end_s - self._start_s
        totals = self.totals
        totals.busy_s += elapsed_s
        totals.operations[operation] = totals.operations.get(operation, 0) + 1
        totals.seconds[operation] = totals.seconds.get(operation, 0.0) + elapsed_s
        self._events.append(Event(operation, step, self._start_s, end_s, version, reach))
        return elapsed_s

    def write_order(self, write: Callable[[str], object]) -> None:
        """Tell `write` of each message from now on, before it is handled: a crash leaves the culprit written down."""
        self._write_order = write

    def handles(self, message: str) -> None:
        """The stage begins to handle a message, in the notation of the order."""
        self._write_order(message)

    def end_untraced(self, name: str) -> None:
        """What `begin` started has ended; it counts as `name`, not as the stage's work, and leaves no event."""
        elapsed_s = self.clock.now() - self._start_s
        self.totals.seconds[name] = self.totals.seconds.get(name, 0.0) + elapsed_s

    def mark(self, operation: str, step: int, *, version: int, reach: int = 0) -> None:
        """Something happened that takes no time."""
        now_s = self.clock.now()
        self.totals.operations[operation] = self.totals.operations.get(operation, 0) + 1
        self._events.append(Event(operation, step, now_s, now_s, version, reach))

    def measure(self, name: str, step: int, value: float) -> None:
        """A scalar of this step."""
        self._values.append((name, step, value))

    def distribution(self, name: str, step: int, values: Tensor) -> None:
        """How the entries of a tensor are spread at this step; nothing where none is finite."""
        if (histogram := binned(values)) is not None:
            self._histograms.append((name, step, histogram))

    def changed(self, step: int, event: str, what: str) -> None:
        """An event has changed the stage, or found nothing to do; in one line for people."""
        self.totals.changes[event] = self.totals.changes.get(event, 0) + 1
        self._changes.append((step, f"{event}: {what}"))

    def block_updated(
        self, block: str, step: int, *, num_updates: int, num_microbatches: int, noise_scale: float | None
    ) -> None:
        """A block has applied what it had accumulated."""
        self.totals.block_updates[block] = num_updates
        self.measure(f"block_length/{block}", step, num_microbatches)
        if noise_scale is not None and math.isfinite(noise_scale):
            self.measure(f"block_noise_scale/{block}", step, noise_scale)

    def waited(self, seconds: float) -> None:
        """The stage had nothing to handle for this long."""
        self.totals.wait_s += seconds

    def held_up(self, seconds: float) -> None:
        """The operation that `begin` started had to wait before it could: that time is not its own."""
        self._start_s += seconds
        self.totals.seconds["turn"] = self.totals.seconds.get("turn", 0.0) + seconds
        self.waited(seconds)

    def take_events(self) -> list[Event]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def take_changes(self) -> list[tuple[int, str]]:
        """The changes of structure, as (step, what), since the last call."""
        changes, self._changes = self._changes, []
        return changes

    def take_histograms(self) -> list[tuple[str, int, Histogram]]:
        """The histograms, as (name, step, histogram), since the last call."""
        histograms, self._histograms = self._histograms, []
        return histograms

    def take_values(self) -> list[tuple[str, int, float]]:
        """The scalars, as (name, step, value), since the last call."""
        values, self._values = self._values, []
        return values
