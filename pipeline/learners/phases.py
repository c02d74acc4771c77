"""How far is what was added to a stage phased in?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from dni import Phase, Ramp, TensorChange

__all__ = ["Phases", "gates_of"]

_GATE, _WEIGHT = ".unit_gate", ".weight"


class Phases:
    """The phases of one stage that are on their way. Names are those within the stage.

    Args:
        module: of the stage; its gates are opened.
        phases: those there are.
        step: the last one that they were moved on by.
    """

    def __init__(self, module: nn.Module, phases: Sequence[Phase] = (), *, step: int = -1) -> None:
        self._module = module
        self._phases = list(phases)
        self._step = step

    def copy(self) -> Phases:
        """Others that may go on by themselves."""
        return Phases(self._module, self._phases, step=self._step)

    def follow(self, changes: Mapping[str, TensorChange]) -> None:
        """What layers read has changed: gates have followed, and so do the phases that open them."""
        for name, change in changes.items():
            if name.endswith(_GATE):
                layer = name.removesuffix(_GATE)
                self._phases = [phase.following(layer, change.axes[0].origin) for phase in self._phases]

    def begin(self, event: str, ramp: Ramp, *, gates: Mapping[str, tuple[int, ...]]) -> None:
        """Shut gates, by layer the entries that it reads, to be opened by the ramp; none: there is nothing to do."""
        if gates:
            self._phases.append(Phase(event=event, gates=gates, ramp=ramp))
            self._phases[-1].open_(self._module)

    def advance(self, step: int, loss: float | None, *, tell: Callable[[str, float], object]) -> None:
        """One step of the ramps for each step since the last call; `tell` is told of each event's alpha."""
        if self._phases:
            for _ in range(self._step, step):
                self._phases = [phase.advanced(loss) for phase in self._phases]
            for phase in self._phases:
                phase.open_(self._module)
                tell(phase.event, phase.alpha)
            self._phases = [phase for phase in self._phases if not phase.is_over]
        self._step = step

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        return {"phases": [phase.to_json() for phase in self._phases], "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._phases = [Phase.from_json(phase) for phase in state["phases"]]
        self._step = state["step"]


def gates_of(changes: Mapping[str, TensorChange]) -> dict[str, tuple[int, ...]]:
    """By layer, the new entries of what it reads."""
    return {
        name.removesuffix(_WEIGHT): axis.origin.fresh
        for name, change in changes.items()
        for axis in change.axes
        if axis.side == "consumer" and axis.origin.fresh
    }
