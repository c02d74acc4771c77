"""Which blocks of a stage are due at a step, and what has each accumulated?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from dni.cadences.blocks import REST
from dni.cadences.cadence import Cadence, Periodic, Window
from dni.cadences.noise_scale import NoiseScale

__all__ = ["Draw", "Foreseen", "Pace"]

Draw = Callable[[str, int], float]
"""A number in [0, 1) that belongs to (block, step)."""
_KEPT = ("num_steps", "num_microbatches", "num_samples", "num_updates", "samples_per_microbatch", "rate", "memory")


def _no_draw(block: str, step: int) -> float:
    raise ValueError(f"block {block} has a cadence that draws, but no draws were given.")


@dataclass(frozen=True)
class Foreseen:
    """When an update of a stage falls due, as far as other stages can know."""

    cadences: tuple[Cadence, ...]
    """Those of its blocks."""
    names: tuple[str, ...]
    """Of the blocks."""
    takes_every: int = 1
    """Of so many steps of the feed the stage gets the last."""
    draw: Draw = _no_draw
    drifts: bool = False
    """Whether a block of it moves at every step."""

    def due(self, step: int) -> bool:
        """Whether one may fall due at a step of the feed: it may wherever a cadence does not say beforehand."""
        own, late = divmod(step + 1, self.takes_every)
        return late == 0 and any(
            self.drifts or not cadence.foreseeable or cadence.due(own - 1, Window(name, partial(self.draw, name)))
            for name, cadence in zip(self.names, self.cadences, strict=True)
        )


class Pace:
    """The windows of a stage's blocks.

    Args:
        cadences: by block name.
        takes_every: of so many steps of the feed the stage gets the last; cadences count those.
        draw: for random cadences.
        drifting: names of blocks that move at every step.
    """

    def __init__(
        self,
        cadences: Mapping[str, Cadence] | None = None,
        *,
        takes_every: int = 1,
        draw: Draw = _no_draw,
        drifting: Collection[str] = (),
    ) -> None:
        self.cadences: dict[str, Cadence] = dict(cadences or {REST: Periodic()})
        self.windows = {
            name: Window(
                name,
                partial(draw, name),
                noise=None if cadence.noise_decay is None else NoiseScale(cadence.noise_decay),
            )
            for name, cadence in self.cadences.items()
        }
        self._takes_every = takes_every
        self._draw = draw
        self.drifting = frozenset(drifting)
        """Blocks that move at every step."""
        self._due: dict[int, list[str]] = {}

    @property
    def foreseen(self) -> Foreseen:
        """What other stages know of it."""
        return Foreseen(
            tuple(self.cadences.values()), tuple(self.cadences), self._takes_every, self._draw, bool(self.drifting)
        )

    @property
    def is_divided(self) -> bool:
        """Whether there is anything but the rest."""
        return self.windows.keys() != {REST}

    @property
    def num_samples(self) -> int:
        """The most samples that a block has accumulated."""
        return max(window.num_samples for window in self.windows.values())

    def due(self, step: int) -> bool:
        """Whether an update falls due once the microbatch of this step of the feed has been learned from.

        To be asked once for each that the stage gets, in order.
        """
        own = (step + 1) // self._takes_every - 1
        due = []
        for name, window in self.windows.items():
            window.num_steps += 1
            if self.cadences[name].due(own, window):
                window.num_steps = 0
                due.append(name)
        if due:
            self._due[step] = due
        return bool(due or self.drifting)

    def accumulate(self, num_samples: int, rates: Mapping[str, float] | None = None) -> None:
        """The gradients of this many further samples were accumulated, in every block or in those that learn.

        Args:
            num_samples: of a microbatch.
            rates: factors of the learning rates of the blocks that learn from it; None: all do, at their own.
        """
        for name, window in self.windows.items():
            if rates is None:
                window.accumulate(num_samples)
            elif name in rates:
                window.accumulate(num_samples, rate=rates[name])

    def take_due(self, step: int) -> list[Window]:
        """What fell due at this step and has accumulated anything, to be applied and closed."""
        names = self._due.pop(step, ())
        return [self.windows[name] for name in names if self.windows[name].num_samples]

    def take_all(self) -> list[Window]:
        """Everything that has accumulated anything, due or not."""
        self._due.clear()
        return [window for window in self.windows.values() if window.num_samples]

    def state_dict(self) -> dict[str, Any]:
        """The windows by block, as numbers."""
        return {
            name: {each: _copied(getattr(window, each)) for each in _KEPT}
            | ({} if window.noise is None else {"noise": window.noise.state_dict()})
            for name, window in self.windows.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name, window in self.windows.items():
            for each in _KEPT:
                if each in state[name]:  # the oldest checkpoints lack some
                    setattr(window, each, _copied(state[name][each]))
            if window.noise is not None and "noise" in state[name]:
                window.noise.load_state_dict(state[name]["noise"])
        self._due.clear()


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value
