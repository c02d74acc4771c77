"""Which events will a run have, and how wide will its layers be after each?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from dni.events.event import Event
from dni.events.plateau import OnPlateau
from dni.events.when import foresee

__all__ = ["Occurrence", "Width", "foresee_events"]


@dataclass(frozen=True, kw_only=True)
class Width:
    """Units of a layer around an event; None: that depends on what will be measured."""

    before: int | None
    after: int | None


@dataclass(frozen=True, kw_only=True)
class Occurrence:
    """An event at a step."""

    step: int
    event: Event
    widths: Mapping[str, Width]
    """By layer of the event."""


def foresee_events(
    events: Sequence[Event],
    num_units: Mapping[str, int],
    *,
    num_steps: int,
    steps_per_epoch: int | None,
    draw: Callable[[int, int], float],
) -> list[Occurrence]:
    """The events whose steps are known, by step and then in their order.

    Layers that an event on a plateau may change have no known width from the start.

    Args:
        events: of the run; see `Event.check` for what is to be checked first.
        num_units: before the run, of all layers whose units events change.
        num_steps: of the run.
        steps_per_epoch: None: not known.
        draw: a number in [0, 1) for (index of the event, step).

    Raises:
        ValueError: a layer is pruned to nothing, or grown beyond a limit.
    """
    widths: dict[str, int | None] = dict(num_units)
    due: list[tuple[int, int]] = []
    for index, event in enumerate(events):
        if isinstance(event.when, OnPlateau):
            for layer in _units_of(event, num_units):
                width = _width(event, layer, num_units[layer], "on a plateau")
                widths[layer] = width.after if width.after == width.before else None
        else:
            steps = foresee(event.when, num_steps=num_steps, steps_per_epoch=steps_per_epoch, draw=partial(draw, index))
            due += [(step, index) for step in steps]
    occurrences = []
    for step, index in sorted(due):
        event = events[index]
        changed = {layer: _width(event, layer, widths[layer], f"at step {step}") for layer in _units_of(event, widths)}
        widths |= {layer: width.after for layer, width in changed.items()}
        occurrences.append(Occurrence(step=step, event=event, widths=changed))
    return occurrences


def _units_of(event: Event, widths: Mapping[str, int | None]) -> list[str]:
    return [layer for layer in event.action.layers or () if layer in widths]


def _width(event: Event, layer: str, before: int | None, place: str) -> Width:
    try:
        return Width(before=before, after=None if before is None else event.action.size_after(before))
    except ValueError as error:
        raise ValueError(f"event {event.label!r} {place}, layer {layer}: {error}") from error
