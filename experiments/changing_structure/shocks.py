"""How large is a shock to the weights, and when does it come?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from dni import (
    At,
    CosineRestarts,
    Electroshock,
    EpochEnds,
    Event,
    OnPlateau,
    Schedule,
    Shock,
    ShrinkAndPerturb,
    ShrinkPerturb,
)
from experiments.changing_structure.arm import Arm, Family
from experiments.changing_structure.pruning import FULL, full_size
from experiments.changing_structure.sites import EPOCHS, Site

__all__ = ["SHOCKS", "SHOCK_ARMS"]

_SIZES = (0.05, 0.1, 0.2, 0.4)
_SHRINKS = ((0.4, 0.1), (0.8, 0.05), (0.95, 0.01))
"""What is left, and the factor of fresh values; the first is Ash & Adams'."""
_ENDS = EpochEnds(last=EPOCHS - 2)


def _at_ends(site: Site, *, size: float) -> tuple[Event]:
    return (Event(_ENDS, Shock(shock=Electroshock(size=size))),)


def _once(site: Site, *, size: float) -> tuple[Event]:
    return (Event(At(site.middle), Shock(shock=Electroshock(size=size))),)


def _on_plateau(site: Site, *, size: float) -> tuple[Event]:
    """When the smoothed training loss has not fallen for a third of an epoch."""
    third = max(1, site.sizes.epoch // 3)
    plateau = OnPlateau(patience=third, smoothing=0.95, cooldown=third, at_most=EPOCHS - 1)
    return (Event(plateau, Shock(shock=Electroshock(size=size))),)


def _shrink_at_ends(site: Site, *, shrink: float, perturb: float) -> tuple[Event]:
    return (Event(_ENDS, ShrinkPerturb(rule=ShrinkAndPerturb(shrink=shrink, perturb=perturb))),)


def _shrink_once(site: Site, *, shrink: float, perturb: float) -> tuple[Event]:
    return (Event(At(site.middle), ShrinkPerturb(rule=ShrinkAndPerturb(shrink=shrink, perturb=perturb))),)


def _restarts(site: Site, *, epochs: tuple[int, ...]) -> Schedule:
    return CosineRestarts(at=tuple(epoch * site.sizes.epoch for epoch in epochs), total=site.steps)


SHOCK_ARMS: Mapping[str, Arm] = {
    **{
        f"{name} {size:g}": Arm(
            title=f"shock of {size:g} {words}", network=full_size, events=partial(make, size=size), rate_of=FULL
        )
        for name, words, make in (
            ("ends shock", "at every epoch end", _at_ends),
            ("middle shock", "in the middle", _once),
            ("plateau shock", "on a plateau", _on_plateau),
        )
        for size in _SIZES
    },
    "equal restarts": Arm(
        title="warm restarts (SGDR) after epochs 3 and 6",
        network=full_size,
        schedule=partial(_restarts, epochs=(3, 6)),
        rate_of=FULL,
    ),
    "doubling restarts": Arm(
        title="warm restarts (SGDR) after epochs 1, 3 and 7",
        network=full_size,
        schedule=partial(_restarts, epochs=(1, 3, 7)),
        rate_of=FULL,
    ),
    **{
        f"ends shrink {shrink:g}": Arm(
            title=f"shrink to {shrink:g}, perturb by {perturb:g}, at every epoch end",
            network=full_size,
            events=partial(_shrink_at_ends, shrink=shrink, perturb=perturb),
            rate_of=FULL,
        )
        for shrink, perturb in _SHRINKS
    },
    "middle shrink 0.4": Arm(
        title="shrink to 0.4, perturb by 0.1, in the middle",
        network=full_size,
        events=partial(_shrink_once, shrink=0.4, perturb=0.1),
        rate_of=FULL,
    ),
}
SHOCKS = Family(
    title="Shock",
    question="Does an electroshock help, of which size and when, and more than warm restarts or shrink-and-perturb?",
    baseline=FULL,
    controls=(FULL,),
    groups={
        "shock at every epoch end": tuple(f"ends shock {size:g}" for size in _SIZES),
        "shock once": tuple(f"middle shock {size:g}" for size in _SIZES),
        "shock on a plateau": tuple(f"plateau shock {size:g}" for size in _SIZES),
        "warm restarts": ("equal restarts", "doubling restarts"),
        "shrink and perturb": (*(f"ends shrink {shrink:g}" for shrink, _ in _SHRINKS), "middle shrink 0.4"),
    },
)
