"""How does data that knows its own place go on from it? Data with `state_dict()` and `load_state_dict()`."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from pipeline.errors import ConfigurationError, RunError
from pipeline.messages import Payload
from pipeline.randomness.keyed import seeded, undisturbed

__all__ = ["Stateful", "StatefulBatches"]

_CPU = torch.device("cpu")
_Batch: TypeAlias = tuple[Payload, Tensor | None]


@runtime_checkable
class Stateful(Protocol):
    """An iterable of batches that can be put back to where it was, as torchdata's StatefulDataLoader."""

    def __iter__(self) -> Iterator[_Batch]:
        """One epoch, or after `load_state_dict` the rest of one."""

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on after the batches given so far: tensors, numbers, strings, and dicts of them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iterator go on from `state`."""


class StatefulBatches:
    """Microbatches read over and over from data that knows its place; resumed exactly.

    Whatever the data draws from the process-wide generator is keyed by the step, as with any other iterable.

    Args:
        data: the batches of an epoch. How far ahead it reads for itself is its own affair: its state counts the batches
            that it gave.
        seed: of those draws.

    Raises:
        ConfigurationError: its state holds what a checkpoint cannot be read back with.
    """

    exact = True

    def __init__(self, data: Stateful, *, seed: int = 0) -> None:
        self._data = data
        self._seed = seed
        self._origin = 0, self._state()
        """Where `start` begins: a step, and the state there."""
        self._position = 0
        self._marked = self._origin
        _refuse_unreadable(self._origin[1])

    def peek(self) -> _Batch:
        """The first microbatch, to learn shapes from; it is not used up."""
        self._rewind()
        with undisturbed():
            first = next(self._epoch(), None)
        self._rewind()
        if first is None:
            raise ConfigurationError("the data holds no batch; give an iterable of (x, target).")
        return first

    def start(self, step: int) -> Iterator[_Batch]:
        """The microbatches from `step` on, which is 0 or the step that was restored."""
        assert step == self._origin[0], f"the data stands at step {self._origin[0]}, not {step}"
        self._rewind()
        may_be_over = step > 0  # the place may be the end of an epoch
        while True:
            before = self._position
            yield from self._epoch()
            if self._position == before and not may_be_over:
                raise RunError(
                    f"the data ran out after {before} batches: give data that can be read again, or fewer steps."
                )
            may_be_over = False

    def mark(self, step: int) -> None:
        """Take down the place after the first `step` microbatches, which have been given, and no more."""
        assert step == self._position, f"{self._position} microbatches have been given, not {step}"
        self._marked = self._origin if step == self._origin[0] else (step, self._state())

    def marked(self, step: int) -> dict[str, Any]:
        """The place that was taken down at `step`.

        Raises:
            ConfigurationError: it holds what a checkpoint cannot be read back with.
        """
        at, state = self._marked
        assert step == at, f"the place was taken down at step {at}, not {step}"
        _refuse_unreadable(state)
        return state

    def restore(self, step: int, state: Mapping[str, Any]) -> None:
        """Go on, with the next `start`, from a place that was taken down."""
        self._origin = step, dict(state)
        self._rewind()

    def _epoch(self) -> Iterator[_Batch]:
        seeded(self._seed, "data", self._position, device=_CPU)
        iterator = iter(self._data)
        while True:
            seeded(self._seed, "data", self._position, device=_CPU)
            batch = next(iterator, None)
            if batch is None:
                return
            self._position += 1
            x, target = batch
            yield x, target

    def _rewind(self) -> None:
        self._position, state = self._origin
        self._data.load_state_dict(copy.deepcopy(state))

    def _state(self) -> dict[str, Any]:
        return copy.deepcopy(self._data.state_dict())


def _refuse_unreadable(state: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception as error:
        raise ConfigurationError(
            "the state_dict() of the data holds something that a checkpoint cannot be read back with; let it hold "
            f"tensors, numbers, strings, and lists and dicts of them. {type(error).__name__}: {error}"
        ) from error
