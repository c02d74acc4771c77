"""Where does a stage's input come from?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from dni.members import Members
from dni.schedules.update_probability import UpdateProbability
from dni.sources.source import Need
from dni.structure.origin import Origin

__all__ = ["InputSource", "ReceivedInput"]


@runtime_checkable
class InputSource(Protocol):
    """Says what a stage runs forward on in training.

    Like a `GradientSource` it is an `nn.Module` that owns its optimiser, the runtime makes a copy for each boundary,
    and `load_state_dict()` must work on one that was never built. Letters: x is the whole network's input, h what the
    stage below sends; each a tensor with N samples on its first axis, or a tuple of such. One that is to serve a
    boundary whose units change is `Remappable`, too.
    """

    needs: Need
    """`Need.INPUT`: it makes the stage's input of the network's, so the stage need not wait for the one below.
    `Need.NONE`: the stage takes what it receives, and nothing below is called."""
    update_probability: UpdateProbability
    """Draws the steps it learns from, apart from those its stage learns from."""

    def build(self, x: Members, h: Members, *, generator: torch.Generator) -> None:
        """Make the parameters for inputs and activations shaped as these, real ones; called once."""

    def estimate(self, x: Members) -> Members:
        """What the stage runs on in the place of h, shaped as h."""

    def learn(self, x: Members, h: Members, *, step: int) -> float:
        """Take one step of its own regression, of h on x; return its loss."""

    def state_dict(self) -> dict[str, Any]:
        """Everything it has learned, its optimiser included."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Become the one that `state_dict` was taken from."""


@dataclass(frozen=True)
class ReceivedInput:
    """A stage runs on what the one below sends: it has to wait for it (forward locking)."""

    needs = Need.NONE
    update_probability = UpdateProbability()

    def build(self, x: Members, h: Members, *, generator: torch.Generator) -> None:
        """There is nothing to build."""

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        """There is nothing to remap."""

    def estimate(self, x: Members) -> Members:
        """Never asked for."""
        raise TypeError("ReceivedInput makes no input: the stage takes what it receives. Use SyntheticInput.")

    def learn(self, x: Members, h: Members, *, step: int) -> float:
        """There is nothing to learn."""
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """There is nothing to take over."""
