"""At which steps is an event due?

A step is the index of a microbatch, from 0 on; an event is dealt with after the update of its step. Whoever writes
schedules of their own gives them the two methods of `When`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["At", "AtRandom", "EpochEnds", "EverySteps", "When", "foresee"]


@runtime_checkable
class When(Protocol):
    """Says of each step, beforehand, whether an event is due."""

    def due(self, step: int, *, steps_per_epoch: int | None, draw: Callable[[int], float]) -> bool:
        """Whether the event is due at a step.

        Args:
            step: index of the microbatch.
            steps_per_epoch: None: not known.
            draw: a number in [0, 1) that belongs to (event, step); the same at every call.
        """

    def check(self, *, num_steps: int, steps_per_epoch: int | None) -> None:
        """Raise `ValueError` if a run of so many steps cannot have these events."""


def foresee(
    when: When, *, num_steps: int, steps_per_epoch: int | None = None, draw: Callable[[int], float]
) -> list[int]:
    """All steps of a run at which an event is due, ascending."""
    return [step for step in range(num_steps) if when.due(step, steps_per_epoch=steps_per_epoch, draw=draw)]


@dataclass(frozen=True, init=False, repr=False)
class At:
    """At these steps: `At(100)`, `At(100, 500)`."""

    steps: tuple[int, ...]
    """Increasing."""

    def __init__(self, *steps: int) -> None:
        if not steps or list(steps) != sorted(set(steps)) or steps[0] < 0:
            raise ValueError(f"an event is due at one step or more, from 0 on and increasing, got {steps}.")
        object.__setattr__(self, "steps", steps)

    def __repr__(self) -> str:
        return f"At({', '.join(map(str, self.steps))})"

    def due(self, step: int, *, steps_per_epoch: int | None, draw: Callable[[int], float]) -> bool:
        return step in self.steps

    def check(self, *, num_steps: int, steps_per_epoch: int | None) -> None:
        _check_within("step", self.steps[-1], num_steps)
        if self.steps[-1] == num_steps - 1:
            raise ValueError(
                f"an event comes after the update of its step, so at step {num_steps - 1}, the last one, it would be "
                "for nothing. Have it earlier, or train for longer."
            )


@dataclass(frozen=True)
class EverySteps:
    """After every `period` steps: at steps period - 1, 2 period - 1, ..., or from `first` on."""

    period: int
    """Steps from one to the next."""
    first: int | None = None
    """Step of the first one; None: period - 1."""
    last: int | None = None
    """None of them comes after this step; None: they go on to the end of the run."""

    def __post_init__(self) -> None:
        _check_rhythm("step", self.period, self.first, self.last)

    def due(self, step: int, *, steps_per_epoch: int | None, draw: Callable[[int], float]) -> bool:
        return _is_due(step, self.period, self.first, self.last)

    def check(self, *, num_steps: int, steps_per_epoch: int | None) -> None:
        _check_within("step", self.period - 1 if self.first is None else self.first, num_steps)
        _check_within("last step", self.last, num_steps)


@dataclass(frozen=True)
class EpochEnds:
    """After the last step of every `period`th epoch: epochs period - 1, 2 period - 1, ..., counted from 0."""

    period: int = 1
    """Epochs from one to the next."""
    first: int | None = None
    """Epoch at whose end the first one comes; None: period - 1."""
    last: int | None = None
    """None of them comes after this epoch; None: they go on to the end of the run."""

    def __post_init__(self) -> None:
        _check_rhythm("epoch", self.period, self.first, self.last)

    def due(self, step: int, *, steps_per_epoch: int | None, draw: Callable[[int], float]) -> bool:
        ended, within = divmod(step + 1, _known(steps_per_epoch))
        return within == 0 and _is_due(ended - 1, self.period, self.first, self.last)

    def check(self, *, num_steps: int, steps_per_epoch: int | None) -> None:
        num_epochs = num_steps // _known(steps_per_epoch)
        _check_within("epoch", self.period - 1 if self.first is None else self.first, num_epochs)
        _check_within("last epoch", self.last, num_epochs)


@dataclass(frozen=True)
class AtRandom:
    """Each step with this probability, drawn by the step's key: the same in every executor, and foreseeable."""

    probability: float
    """Of each step, in (0, 1]."""
    first: int = 0
    """No step before this one."""
    last: int | None = None
    """No step after this one; None: to the end of the run."""

    def __post_init__(self) -> None:
        if not 0.0 < self.probability <= 1.0:
            raise ValueError(f"the probability of an event must lie in (0, 1], got {self.probability}.")
        _check_rhythm("step", 1, self.first, self.last)

    def due(self, step: int, *, steps_per_epoch: int | None, draw: Callable[[int], float]) -> bool:
        return _is_due(step, 1, self.first, self.last) and draw(step) < self.probability

    def check(self, *, num_steps: int, steps_per_epoch: int | None) -> None:
        _check_within("first step", self.first, num_steps)
        _check_within("last step", self.last, num_steps)


def _is_due(index: int, period: int, first: int | None, last: int | None) -> bool:
    start = period - 1 if first is None else first
    return index >= start and (last is None or index <= last) and (index - start) % period == 0


def _known(steps_per_epoch: int | None) -> int:
    if steps_per_epoch is None:
        raise ValueError(
            "events at the ends of epochs need data whose epochs have a known number of steps, but these have none. "
            "Use EverySteps."
        )
    return steps_per_epoch


def _check_rhythm(what: str, period: int, first: int | None, last: int | None) -> None:
    if period < 1 or (first is not None and first < 0):
        raise ValueError(
            f"events come every {what} or less often, from {what} 0 on, got period={period}, first={first}."
        )
    start = period - 1 if first is None else first
    if last is not None and last < start:
        raise ValueError(f"the last {what} must not come before the first, {start}, got {last}.")


def _check_within(what: str, index: int | None, count: int) -> None:
    if index is not None and index >= count:
        unit = what.split()[-1]
        raise ValueError(
            f"the {what} of an event must lie within the run, whose {count} {unit}s end with {unit} {count - 1}, got "
            f"{index}. Have it earlier, or train for longer."
        )
