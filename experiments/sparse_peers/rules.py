"""Which rules are compared, and which layers does each let learn at a step?

A network is a chain of six units, each a layer of weights with the BatchNorm behind it; a unit is one block for all
rules. Numbers of steps that a paper gives in epochs or passes come from the `Course` of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

from dni import (
    BlockCadence,
    FreezeOut,
    InCycles,
    Layer,
    LayerOut,
    Layout,
    Multirate,
    Only,
    Participation,
    Periodic,
    RandomLayers,
    TopOrAll,
)
from pipeline.configuration.blocks import Draws

__all__ = ["FULL", "OPTIMIZERS", "RULES", "UNITS", "Course", "Rule", "Shares", "blocks_of", "shares"]

UNITS = ("0", "1", "2", "3", "4", "5")
"""Names of the units, from the input up."""
OPTIMIZERS = ("SGD", "Adam")
FULL = "full"
"""The rule that all others are compared with."""
_TOP = len(UNITS) // 3


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long a run is, and for how many steps what is drawn in it stays."""

    steps: int
    epoch: int
    """LayerOut draws anew for each."""
    turn: int
    """Of a unit in BAdam."""
    draw: int
    """LISA draws anew after so many."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Who learns when."""

    title: str
    make: Callable[[Course], Participation | None]
    """None: everything learns at every step."""
    optimizers: tuple[str, ...] = OPTIMIZERS
    """With which it can be run."""
    anneals: bool = False
    """Whether it brings a schedule of the rate; the others have half a cosine."""


def _layer_out(lowest: float, highest: float) -> Callable[[Course], Participation]:
    return lambda course: LayerOut(course.epoch, lowest=lowest, highest=highest)


def _freeze_out(first: float) -> Callable[[Course], Participation]:
    return lambda course: FreezeOut(course.steps, first=first)  # cubic and scaled, as published


def _multirate(*, drift: bool) -> Callable[[Course], Participation]:
    return lambda course: Multirate(UNITS[: len(UNITS) // 2], every=5, drift=drift)


RULES: Mapping[str, Rule] = {
    FULL: Rule(title="full training", make=lambda course: None),
    "top": Rule(title="only the top third", make=lambda course: Only(UNITS[-_TOP:])),
    "plws 0.1": Rule(title="pLWS, top third, p = 0.1", make=lambda course: TopOrAll(0.1, top=_TOP)),
    "plws 0.3": Rule(title="pLWS, top third, p = 0.3", make=lambda course: TopOrAll(0.3, top=_TOP)),
    "freezeout 0.5": Rule(title="FreezeOut, t0 = 0.5", make=_freeze_out(0.5), anneals=True),
    "freezeout 0.8": Rule(title="FreezeOut, t0 = 0.8", make=_freeze_out(0.8), anneals=True),
    "layerout rising": Rule(title="LayerOut, 0.1 to 0.9 from the input up", make=_layer_out(0.1, 0.9)),
    "layerout falling": Rule(title="LayerOut, 0.9 to 0.1 from the input up", make=_layer_out(0.9, 0.1)),
    "badam": Rule(title="BAdam: one in turn, random order", make=lambda course: InCycles(course.turn)),
    "lisa": Rule(title="LISA: both ends and 2 drawn", make=lambda course: RandomLayers(2, every=course.draw)),
    "multirate drift": Rule(
        title="Multirate with drift, k = 5", make=_multirate(drift=True), optimizers=("SGD",)
    ),  # slow layers drift along SGD's momentum
    "multirate": Rule(title="Multirate without drift, k = 5", make=_multirate(drift=False)),
}
"""In the order of the tables."""


def blocks_of(policy: Participation | None) -> tuple[BlockCadence, ...]:
    """Each unit as one block, so that a convolution and its BatchNorm learn together; none for full training."""
    if policy is None:
        return ()
    own = policy.blocks if isinstance(policy, Multirate) else ()
    slow = policy.slow if isinstance(policy, Multirate) else ()
    return (*own, *(BlockCadence(Layer(unit), Periodic()) for unit in UNITS if unit not in slow))


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Of all units, the means over some steps."""

    learned: float
    """Those that learned."""
    reached: float
    """Those that the backward reached: the lowest that learned, and all above it."""


def shares(policy: Participation | None, *, seed: int, first: int = 0, stop: int) -> Shares:
    """What a policy says of the steps from `first` to before `stop`, with the draws of a run of this seed."""
    if policy is None:
        return Shares(learned=1.0, reached=1.0)
    layout, draw = Layout((UNITS,)), Draws(seed)
    learning = [policy.learning(step, layout, draw) for step in range(first, stop)]
    lowest = [min(layout.position(unit) for unit in units) for units in learning]
    return Shares(
        learned=fmean(len(units) for units in learning) / len(UNITS),
        reached=1.0 - fmean(lowest) / len(UNITS),
    )
