"""Which events of a stage are due?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from dni import Event, Measure, OnPlateau, PlateauState
from pipeline.randomness.keyed import key

__all__ = ["Agenda"]


class Agenda:
    """The events of one stage: when they are due, what was seen of the loss, and which were dealt with.

    Args:
        events: of the run, by their places.
        seed: of every draw.
        steps: of the run; an event that is due at the last one is for nothing, and is left out.
        steps_per_epoch: microbatches of an epoch of the data; None: not known.
    """

    def __init__(
        self,
        events: Sequence[Event] = (),
        *,
        seed: int = 0,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
    ) -> None:
        self._all = tuple(events)
        self._seed, self._steps, self._steps_per_epoch = seed, steps, steps_per_epoch
        self.events: dict[int, Event] = {}
        """Those of this stage, by their places among all."""
        self.loss: float | None = None
        """The newest training loss per sample that is known, in 32 bits; None: nobody asks, or none was yet."""
        self._seen: dict[int, int] = {}
        """By event, the last step that was looked at."""
        self._plateaus: dict[int, PlateauState] = {}
        self._fired: set[int] = set()
        """Those on a plateau that are due."""

    def __bool__(self) -> bool:
        """Whether the run has any, of whichever stage."""
        return bool(self._all)

    def choose(self, has: Callable[[str], bool]) -> None:
        """Keep those that concern this stage: all of its weights, or a layer that it has."""
        self.events = {
            place: event
            for place, event in enumerate(self._all)
            if event.action.layers is None or any(map(has, event.action.layers))
        }
        self._seen = dict.fromkeys(self.events, -1)

    def asks(self, measure: Measure) -> bool:
        """Whether any of the stage's asks for it."""
        return any(event.action.asks & measure for event in self.events.values())

    def layers(self) -> dict[str, Measure]:
        """The layers that they name, and what is asked of each."""
        asked: dict[str, Measure] = {}
        for event in self.events.values():
            for layer in event.action.layers or ():
                asked[layer] = asked.get(layer, Measure.NOTHING) | event.action.asks
        return asked

    def hear_loss(self, loss: float) -> None:
        """A training loss per sample, of this stage or reported by the one above; kept if an event of the run asks."""
        follows = (isinstance(each.when, OnPlateau) or getattr(each.action, "ramp", None) for each in self._all)
        if not any(follows):
            return
        self.loss = torch.tensor(loss, dtype=torch.float32).item()
        for place, event in self.events.items():
            if isinstance(event.when, OnPlateau):
                state = self._plateaus.get(place, PlateauState())
                self._plateaus[place], fires = event.when.observe(state, self.loss)
                if fires:
                    self._fired.add(place)

    def fire(self, places: Collection[int], *, step: int) -> None:
        """Let these events be due after this step, by their places, and no others."""
        self._fired = self.events.keys() & set(places)
        self._seen = dict.fromkeys(self.events, step)

    def due(self, step: int) -> list[int]:
        """Places of the events that are due after an update at this step; those missed since the last one, too."""
        return [place for place in self.events if place in self._fired or self._has_come(place, step)]

    def done(self, place: int, step: int) -> None:
        """An event was dealt with."""
        self._fired.discard(place)
        self._seen[place] = step

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        return {
            "seen": dict(self._seen),
            "fired": sorted(self._fired),
            "plateaus": {place: asdict(state) for place, state in self._plateaus.items()},
            "loss": self.loss,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._seen |= {place: step for place, step in state["seen"].items() if place in self.events}
        self._fired = set(state["fired"])
        self._plateaus = {place: PlateauState(**own) for place, own in state["plateaus"].items()}
        self.loss = state["loss"]

    def _has_come(self, place: int, step: int) -> bool:
        when = self.events[place].when
        if isinstance(when, OnPlateau):
            return False
        return any(
            when.due(each, steps_per_epoch=self._steps_per_epoch, draw=lambda at: self._draw(place, at))
            for each in range(self._seen[place] + 1, step + 1)
            if self._steps is None or each < self._steps - 1
        )

    def _draw(self, place: int, step: int) -> float:
        return key(self._seed, f"event/{place}", step) / 2**63
