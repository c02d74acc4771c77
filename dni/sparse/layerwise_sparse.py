"""Layer-wise sparse SGD: only some layers learn, always the same or, at random steps, all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, TypeAlias

from dni.cadences.pace import Draw
from dni.sparse.participation import Layout

__all__ = ["Only", "Rescale", "TopOrAll"]

Rescale: TypeAlias = Literal["leave", "inverse", "elapsed"]
"""What is done about layers that learn at a share p of the steps: leave: nothing, their rate is p times the others' on
the average. inverse: 1/p times the rate. elapsed: as many times as steps have passed since they last learned; what they
missed accumulates."""


@dataclass(frozen=True)
class Only:
    """The same blocks at every step; the others stay as they were initialised.

    Source: static LWS-SGD, Li & Banerjee 2021 (arXiv 2102.13522, abstract).
    """

    layers: tuple[str, ...] = ()
    """Names of blocks: layers, unless the network is divided otherwise."""
    stages: tuple[int, ...] = ()
    """Stages all of whose blocks learn."""

    def __post_init__(self) -> None:
        if not (self.layers or self.stages):
            raise ValueError("Only needs the name of a layer, or a stage, that is to learn; it got neither.")

    @property
    def sets_rates(self) -> bool:
        return False

    @property
    def forgets(self) -> bool:
        return False

    def check(self, layout: Layout) -> None:
        layout.check(*self.layers)
        for stage in self.stages:
            if not 0 <= stage < len(layout.stages):
                raise ValueError(f"there is no stage {stage}; the stages are 0 to {len(layout.stages) - 1}.")

    def learning(self, step: int, layout: Layout, draw: Draw) -> Mapping[str, float]:
        named = (*self.layers, *(block for stage in self.stages for block in layout.stages[stage]))
        return dict.fromkeys(named, 1.0)


@dataclass(frozen=True)
class TopOrAll:
    """At a step that is drawn the whole network learns, at the others only its top.

    With r the part of a backward pass that the top's takes, backpropagation is 1 / (p + (1 - p) r) times faster.

    Source: probabilistic LWS-SGD, Li & Banerjee 2021 (arXiv 2102.13522, abstract). Differs: the abstract says neither
    whether the draw is per step nor whether rates are rescaled; here it is per step, and `rescale` is a choice.
    """

    probability: float
    """p, that everything learns at a step: 0 to 1."""
    top: int | str = 1
    """How many blocks, counted from the output, learn at every step; or the name of the lowest of them."""
    unit: Literal["layers", "stages"] = "layers"
    """What is counted: blocks, which are layers unless the network is divided otherwise, or stages."""
    rescale: Rescale = "leave"

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"the probability of a full step must lie in [0, 1], got {self.probability}.")
        if self.rescale == "inverse" and not self.probability:
            raise ValueError("rescale inverse divides by the probability of a full step, which is 0. Use leave.")
        if isinstance(self.top, int) and self.top < 1:
            raise ValueError(f"top counts what learns at every step and must be at least 1, got {self.top}.")

    @property
    def sets_rates(self) -> bool:
        return self.rescale != "leave"

    @property
    def forgets(self) -> bool:
        return False

    def check(self, layout: Layout) -> None:
        if isinstance(self.top, str):
            layout.check(self.top)
            return
        there = len(layout.stages) if self.unit == "stages" else len(layout.blocks)
        if self.top > there:
            names = "" if self.unit == "stages" else f": {', '.join(layout.blocks)}"
            raise ValueError(f"top is {self.top}, but the network has {there} {self.unit}{names}.")

    def learning(self, step: int, layout: Layout, draw: Draw) -> Mapping[str, float]:
        top = self._top(layout)
        if not self._is_full(step, draw):
            return dict.fromkeys(top, 1.0)
        return dict.fromkeys(layout.blocks, self._factor(step, draw)) | dict.fromkeys(top, 1.0)

    def _top(self, layout: Layout) -> tuple[str, ...]:
        if isinstance(self.top, str):
            return layout.blocks[layout.position(self.top) :]
        if self.unit == "stages":
            return tuple(block for stage in layout.stages[-self.top :] for block in stage)
        return layout.blocks[-self.top :]

    def _is_full(self, step: int, draw: Draw) -> bool:
        return draw("top or all", step) < self.probability

    def _factor(self, step: int, draw: Draw) -> float:
        match self.rescale:
            case "leave":
                return 1.0
            case "inverse":
                return 1.0 / self.probability
            case "elapsed":
                missed = takewhile(lambda each: not self._is_full(each, draw), range(step - 1, -1, -1))
                return 1.0 + sum(1 for _ in missed)
