"""When, and by what, are units pruned? Every arm ends with the same numbers of units."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

from torch import nn

from dni import At, Count, EpochEnds, Event, PruneUnits
from experiments.changing_structure.arm import Arm, Family
from experiments.changing_structure.networks import convolutional, perceptron
from experiments.changing_structure.sites import EPOCHS, Site

__all__ = ["FULL", "PRUNING", "PRUNING_ARMS", "full_size", "of_width"]

FULL = "full"
"""The network that pruning, shocks and sparsity begin with: nothing happens to it."""
_SMALL = "small"
_HIDDEN = ("layer1", "layer2", "layer3")
_BY: tuple[Literal["magnitude", "activity", "taylor", "random"], ...] = ("magnitude", "activity", "taylor", "random")
_EARLY, _MIDDLE, _LATE = 0, EPOCHS // 2, EPOCHS - 2
"""Epochs at whose end units are pruned once."""


def of_width(site: Site, width: int) -> nn.Sequential:
    """Three hidden layers of this width."""
    channels, side = site.task.image
    if site.task.net == "mlp":
        return perceptron(channels * side**2, (width,) * 3)
    return convolutional(channels, side, (width,) * 3)


def full_size(site: Site) -> nn.Sequential:
    """As wide as it ever is."""
    return of_width(site, site.sizes.widths[site.task.net][0])


def _small(site: Site) -> nn.Sequential:
    return of_width(site, site.sizes.widths[site.task.net][1])


def _prune(
    site: Site, *, by: Literal["magnitude", "activity", "taylor", "random"], first: int, last: int
) -> tuple[Event]:
    """The same number of units at the end of each of these epochs."""
    before, after = site.sizes.widths[site.task.net]
    count, rest = divmod(before - after, last - first + 1)
    assert rest == 0, "widths must differ by a multiple of the ends of epochs"
    action = PruneUnits(layers=_HIDDEN, amount=Count(count), by=by)
    if first == last:
        return (Event(At(site.epoch_end(first)), action),)
    return (Event(EpochEnds(first=first, last=last), action),)


def _arm(
    title: str, by: Literal["magnitude", "activity", "taylor", "random"], first: int, last: int, **more: int
) -> Arm:
    events = partial(_prune, by=by, first=first, last=last)
    return Arm(title=f"{title}, by {by}", network=full_size, events=events, rate_of=FULL, **more)  # type: ignore[arg-type]


PRUNING_ARMS: Mapping[str, Arm] = {
    FULL: Arm(title="never: full size", network=full_size),
    _SMALL: Arm(title="small from the start", network=_small),
    **{f"ends {by}": _arm("at every epoch end", by, 0, EPOCHS - 2) for by in _BY},
    "half ends magnitude": _arm("at the first four epoch ends", "magnitude", 0, EPOCHS // 2 - 1),
    "early magnitude": _arm("once, after epoch 1", "magnitude", _EARLY, _EARLY),
    **{f"middle {by}": _arm(f"once, after epoch {_MIDDLE + 1}", by, _MIDDLE, _MIDDLE) for by in _BY},
    "late magnitude": _arm(f"once, after epoch {_LATE + 1}", "magnitude", _LATE, _LATE),
    "late longer magnitude": _arm(
        f"once, after epoch {_LATE + 1} of {_LATE + EPOCHS - _MIDDLE} (more samples)",
        "magnitude",
        _LATE,
        _LATE,
        epochs=_LATE + EPOCHS - _MIDDLE,
    ),
}
PRUNING = Family(
    title="Prune",
    question="Is it better to prune a little at every epoch end, once, or to have begun with the small network?",
    baseline=_SMALL,
    controls=(_SMALL, FULL),
    groups={
        "at epoch ends": (*(f"ends {by}" for by in _BY), "half ends magnitude"),
        "once": ("early magnitude", *(f"middle {by}" for by in _BY), "late magnitude"),
        "once, and as much training afterwards as in the middle": ("late longer magnitude",),
    },
)
