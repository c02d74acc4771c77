"""What is measured of units and gradients for the events of a stage?

Hooks take down what passes the layers that an event asks about, of the newest microbatch that is learned from: what is
read of their units, behind the nonlinearity, and the gradient there. They see forwards of training only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dni import (
    Measure,
    Origin,
    UnitAxis,
    auxiliary_gradient,
    auxiliary_gradient_of_convolutions,
    score_unit_activity,
    score_unit_taylor,
)

__all__ = ["Read", "Watch"]

_OF_UNITS = Measure.ACTIVITY | Measure.TAYLOR | Measure.AUXILIARY


@dataclass(frozen=True, kw_only=True)
class Read:
    """Where the units of a layer are read."""

    producer: nn.Module
    """Computes them."""
    num_units: int
    consumer: nn.Module | None
    """A layer of this stage; None: the stage above reads them, in this one's output."""
    at: UnitAxis
    """Where they lie: in the output, or along the axis of the consumer's weight that reads."""


class Watch:
    """What one stage measures.

    Args:
        asked: by global name of a layer, what is asked of its units.
    """

    def __init__(self, asked: Mapping[str, Measure]) -> None:
        self._asked = {layer: measure for layer, measure in asked.items() if measure & _OF_UNITS}
        self._active = False
        self._handles: list[Any] = []
        self._reads: dict[str, Read] = {}
        self._h: dict[str, Tensor] = {}
        self._taylor: dict[str, Tensor] = {}
        self._inputs: dict[str, Tensor] = {}
        self._pairs: dict[str, tuple[Tensor, Tensor]] = {}
        """What a layer reads, and the gradient where its units have been read, of one microbatch."""
        self._changes: Counter[str] = Counter()
        """Changes of each layer's units: what comes of a microbatch from before is not theirs."""

    def install(self, find: Callable[[str], Read]) -> None:
        """Watch the layers that are asked about; once, and again whenever the structure has changed."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._reads = {layer: find(layer) for layer in self._asked}
        for layer, read in self._reads.items():
            if read.consumer is not None:
                self._handles.append(read.consumer.register_forward_pre_hook(partial(_before, self, layer)))
            if self._asked[layer] & Measure.AUXILIARY and read.consumer is not None:
                self._handles.append(read.producer.register_forward_pre_hook(partial(_entering, self, layer)))
                self._handles.append(read.consumer.register_forward_hook(partial(_leaving, self, layer)))

    def change(self, layer: str, origin: Origin) -> None:
        """The units of a layer are others; what was measured of those that stay is still theirs."""
        read = self._reads.get(layer)
        if read is None:
            return
        self._reads[layer] = replace(read, num_units=origin.num_new)
        self._changes[layer] += 1
        if layer in self._h:
            h, axis = self._h[layer], self._axis(read)
            self._h[layer] = read.at.expand(origin, h.shape[axis]).raised(0).apply(h, axis)
        if layer in self._taylor:
            self._taylor[layer] = origin.raised(0).apply(self._taylor[layer], 0)
        self._pairs.pop(layer, None)

    def has(self, layer: str, measure: Measure) -> bool:
        """Whether what is asked of a layer has been measured; it is of no layer that is not watched."""
        if layer not in self._asked:
            return True
        found: dict[Measure, Mapping[str, object]] = {
            Measure.ACTIVITY: self._h,
            Measure.TAYLOR: self._taylor,
            Measure.AUXILIARY: self._pairs,
        }
        return all(layer in values for each, values in found.items() if measure & each)

    @property
    def is_needed(self) -> bool:
        """Whether anything is asked."""
        return bool(self._asked)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Take down what passes in the block."""
        self._active = True
        try:
            yield
        finally:
            self._active = False

    def leaves(self, h: Tensor) -> None:
        """The stage's output, where nothing within the stage reads the units."""
        for layer, read in self._reads.items():
            if read.consumer is None:
                self.reads(layer, h)

    def reads(self, layer: str, h: Tensor) -> None:
        """What is read of a layer's units."""
        if not self._active:
            return
        self._h[layer] = h.detach()
        if self._asked[layer] & Measure.TAYLOR and h.requires_grad:
            graded = partial(_graded, self, layer, h.detach(), self._changes[layer])
            h.register_hook(graded)  # type: ignore[no-untyped-call]

    def activity(self) -> dict[str, Tensor]:
        """E|h| of each unit, by layer, (U,)."""
        return {
            layer: score_unit_activity(self._own(layer, h), num_units=self._reads[layer].num_units) / len(h)
            for layer, h in self._h.items()
            if self._asked[layer] & Measure.ACTIVITY
        }

    def taylor(self) -> dict[str, Tensor]:
        """E|mean of h dL/dh| of each unit, by layer, (U,)."""
        return dict(self._taylor)

    def auxiliary(self) -> dict[str, Tensor]:
        """The gradient that a layer of zeros past the units would have, by layer."""
        found = {}
        for layer, (h, gradient) in self._pairs.items():
            read = self._reads[layer]
            if isinstance(read.producer, nn.Linear) and isinstance(read.consumer, nn.Linear):
                found[layer] = auxiliary_gradient(h, gradient)
            else:
                assert isinstance(read.producer, nn.Conv1d | nn.Conv2d)
                assert isinstance(read.consumer, nn.Conv1d | nn.Conv2d)
                found[layer] = auxiliary_gradient_of_convolutions(
                    h, gradient, producer=read.producer, consumer=read.consumer
                )
        return found

    def _own(self, layer: str, h: Tensor) -> Tensor:
        """The units of the layer alone, along axis 1."""
        read = self._reads[layer]
        axis = self._axis(read)
        return h.narrow(axis, read.at.offsets[0], read.num_units * read.at.block).movedim(axis, 1)

    @staticmethod
    def _axis(read: Read) -> int:
        """Along which the units lie in what is read."""
        if read.consumer is None:
            return read.at.axis
        return -1 if isinstance(read.consumer, nn.Linear) else 1


def _before(watch: Watch, layer: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
    watch.reads(layer, args[0])


def _entering(watch: Watch, layer: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
    if watch._active:
        watch._inputs[layer] = args[0].detach()


def _leaving(watch: Watch, layer: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
    if watch._active and output.requires_grad:
        pulled = partial(_pulled, watch, layer, watch._changes[layer], watch._inputs[layer])
        output.register_hook(pulled)  # type: ignore[no-untyped-call]


def _pulled(watch: Watch, layer: str, num_changes: int, h: Tensor, gradient: Tensor) -> None:
    if num_changes == watch._changes[layer]:
        watch._pairs[layer] = h, gradient.detach()


def _graded(watch: Watch, layer: str, h: Tensor, num_changes: int, gradient: Tensor) -> None:
    if num_changes != watch._changes[layer]:
        return
    with torch.no_grad():
        own, pulled = watch._own(layer, h), watch._own(layer, gradient)
        watch._taylor[layer] = score_unit_taylor(own, pulled, num_units=watch._reads[layer].num_units) / len(h)
