"""Which state does each microbatch of a stage begin with, and which does it leave?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import nn

from pipeline.learners.carrying import Carried, Carrying

__all__ = ["CarriedStates", "States"]

States: TypeAlias = Mapping[str, Carried]
"""By the layer's name in the stage; none of a layer that begins anew."""


class CarriedStates:
    """The states of a stage's carrying layers: those of training, and those of an evaluation beside it.

    The layers hold them during a forward only.

    Args:
        module: the stage's module.
        every: the stage gets one in so many steps of the feed; the layers count those that it gets.
    """

    def __init__(self, module: nn.Module, *, every: int = 1) -> None:
        self._layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, Carrying)}
        self._every = every
        self._training: States = {}
        self._evaluation: States = {}
        self._evaluated = -1
        """The last step of the evaluation."""

    @contextmanager
    def training(self, step: int) -> Iterator[States]:
        """Let the block be the forward of a microbatch to learn from; what it begins with, for `again`."""
        before = self._training
        with self.again(before, step):
            yield before
            self._training = self._held()

    @contextmanager
    def evaluation(self, step: int) -> Iterator[None]:
        """Let the block be the forward of an evaluation batch; one that is not after the last begins an evaluation."""
        before = self._evaluation if step > self._evaluated else {}
        with self.again(before, step):
            yield
            self._evaluation, self._evaluated = self._held(), step

    @contextmanager
    def again(self, states: States, step: int) -> Iterator[None]:
        """Let the block be a forward that begins with these and leaves nothing."""
        for name, layer in self._layers.items():
            layer.step = (step + 1) // self._every - 1
            layer.carried = states.get(name)
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.step, layer.carried = 0, None

    def state_dict(self) -> dict[str, Any]:
        """What training goes on with."""
        return {
            name: {"step": carried.step, "num_samples": carried.num_samples, "state": carried.state}
            for name, carried in self._training.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with `state`; its tensors are already on the right device."""
        self._training = {
            name: Carried.of(saved["state"], step=saved["step"], num_samples=saved["num_samples"])
            for name, saved in state.items()
        }

    def _held(self) -> States:
        return {name: layer.carried for name, layer in self._layers.items() if layer.carried is not None}
