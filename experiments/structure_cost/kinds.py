"""Which events are timed, and when are they due in a run?"""

from __future__ import annotations

from collections.abc import Mapping

from dni import (
    SET,
    Action,
    At,
    Attach,
    Component,
    ContinualBackprop,
    Electroshock,
    Event,
    Grow,
    LiftMasks,
    LinearRamp,
    PruneUnits,
    PruneWeights,
    Recycle,
    ReDo,
    ResetLayers,
    Rewire,
    RigL,
    Share,
    Shock,
    ShrinkAndPerturb,
    ShrinkPerturb,
    Widen,
    WidenKernel,
)
from experiments.structure_cost.networks import Network

__all__ = ["FIRST", "HALF", "SPACING", "TENTH", "events", "kind_at", "kinds", "last_step"]

FIRST, SPACING = 3, 2
"""The step of the first event, and steps from one to the next."""
TENTH = "recycle a tenth, within a stage"
HALF = "recycle about half, within a stage"
"""Far more than dormant units are: what is below the mean."""
_SPARSITY = 0.9


def kinds(network: Network) -> dict[str, Action]:
    """In the order in which they follow one another: what was taken away is given back, so that sizes stay alike."""
    within, boundary, stage = (network.within,), (network.boundary,), network.stage
    quarter, third = Share(0.25), Share(1 / 3)
    found: dict[str, Action] = {
        "prune units, within a stage": PruneUnits(layers=within, amount=quarter, by="taylor"),
        "widen (Net2Net), within a stage": Widen(layers=within, amount=third),
        "prune units, at a boundary": PruneUnits(layers=boundary, amount=quarter),
        "widen (Net2Net), at a boundary": Widen(layers=boundary, amount=third),
        "prune units again, at a boundary": PruneUnits(layers=boundary, amount=quarter),
        "grow (alpha 0), at a boundary": Grow(layers=boundary, amount=third),
        "prune units again, within a stage": PruneUnits(layers=within, amount=quarter),
        "grow behind a gate, within a stage": Grow(
            layers=within, amount=third, alpha=1.0, ramp=LinearRamp(num_steps=10**6)
        ),
        TENTH: Recycle(layers=within, rule=ContinualBackprop(maturity=0, replacement_rate=0.1)),
        "attach a component": Attach(edit=Component(layer=network.within, units=128)),
        "reset a layer": ResetLayers(layers=within),
        "shock the weights of a stage": Shock(shock=Electroshock(size=0.1), layers=stage),
        "shrink and perturb them": ShrinkPerturb(rule=ShrinkAndPerturb(), layers=stage),
    }
    found |= {
        "prune 90 % of them": PruneWeights(layers=stage, amount=Share(_SPARSITY)),
        "lift the masks": LiftMasks(layers=stage),
        "begin 90 % sparse, at random": Rewire(rule=SET(share=0.3), layers=stage, sparsity=_SPARSITY),
        "SET, 90 % sparse": Rewire(rule=SET(share=0.3), layers=stage),
        "RigL, 90 % sparse": Rewire(rule=RigL(until=10**6), layers=stage),
    }
    if network.kernel:
        found["widen a kernel, 3x3 to 5x5"] = WidenKernel(layers=within)
    # Last, because for Adam its many pieces make every later event slower.
    found[HALF] = Recycle(layers=within, rule=ReDo(threshold=1.0))
    return found


def events(kinds: Mapping[str, Action]) -> tuple[Event, ...]:
    """One of each, one after the other."""
    return tuple(
        Event(At(FIRST + SPACING * place), action, name=name) for place, (name, action) in enumerate(kinds.items())
    )


def kind_at(step: int, kinds: Mapping[str, Action]) -> str:
    """The kind of event that was due at this step or just before."""
    return list(kinds)[(step - FIRST) // SPACING]


def last_step(kinds: Mapping[str, Action]) -> int:
    """Of an event."""
    return FIRST + SPACING * (len(kinds) - 1)
