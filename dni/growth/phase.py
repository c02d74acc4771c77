"""How far is new capacity phased in, and what opens its gates?

A phase is a value: a stage keeps those that are on their way in its checkpoint, moves each on by one step at every step
of training, and lets it open its gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from dni.growth.alpha import Progress, Ramp, ramp_from_json, ramp_to_json
from dni.growth.gate import fold_, gate_
from dni.structure.origin import Origin

__all__ = ["Phase"]

_BEGINNING = Progress()


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """The phasing in of what one event added."""

    event: str
    """Its name, for those who look."""
    gates: Mapping[str, tuple[int, ...]]
    """By layer that reads what is new: which of its entries are gated. A layer's entries are in one phase each."""
    ramp: Ramp
    """Raises alpha."""
    progress: Progress = _BEGINNING

    @property
    def alpha(self) -> float:
        """How far the gates are open, in [0, 1]."""
        return self.progress.alpha

    @property
    def is_over(self) -> bool:
        """Whether there is no gate any more: all are open, or what was behind them is gone."""
        return self.alpha >= 1 or not self.gates

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Phase:
        """What `to_json` wrote."""
        return Phase(
            event=value["event"],
            gates={layer: tuple(entries) for layer, entries in value["gates"].items()},
            ramp=ramp_from_json(value["ramp"]),
            progress=Progress.from_json(value["progress"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Numbers, names and lists."""
        return {
            "event": self.event,
            "gates": {layer: list(entries) for layer, entries in self.gates.items()},
            "ramp": ramp_to_json(self.ramp),
            "progress": self.progress.to_json(),
        }

    def advanced(self, loss: float | None) -> Phase:
        """The phase after one more step of training.

        Args:
            loss: of the step, per sample; None: none has been reported yet, so a ramp that follows it waits.

        Raises:
            ValueError: the ramp follows the loss, and it is negative or not finite.
        """
        return replace(self, progress=self.ramp.advance(self.progress, loss))

    def following(self, layer: str, origin: Origin) -> Phase:
        """The phase after a change of what a layer reads: copies of what is gated are gated, too.

        Args:
            layer: its name; one that is not in this phase changes nothing.
            origin: of the entries of the layer's gate.
        """
        if layer not in self.gates:
            return self
        gated = set(self.gates[layer])
        entries = tuple(entry for entry, source in enumerate(origin.sources) if source in gated)
        others = {name: own for name, own in self.gates.items() if name != layer}
        return replace(self, gates={**others, layer: entries} if entries else others)

    def open_(self, module: nn.Module) -> None:
        """Let the gates in a module be as far open as this phase says; gates are made where there are none.

        Once alpha is 1 they are removed, and the weights keep their bits.

        Raises:
            ValueError, TypeError: a layer is not there, or has no such entries, or cannot have a gate.
        """
        layers = dict(module.named_modules())
        if lost := self.gates.keys() - layers.keys():
            raise ValueError(
                f"event {self.event} is being phased in at {', '.join(sorted(lost))}, but the module has no such layer."
            )
        for name, entries in self.gates.items():
            gate_(layers[name], entries, self.alpha)
            if self.is_over:
                fold_(layers[name], entries)
