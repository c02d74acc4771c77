"""How does a source follow when the units at its boundary change, and which changes can it follow?

Letters: N samples, T tokens, C units, *F the shape of one sample of h.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dni.structure.origin import Origin

__all__ = ["Remappable", "check_units", "remap_together_", "unit_axis"]


@runtime_checkable
class Remappable(Protocol):
    """A gradient source or an input source that follows a change of the units of h.

    A source without it serves a boundary whose units never change.
    """

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        """Serve, from now on, an h whose units follow from those before by `origin`, and keep what was learned.

        What it says of a copy is the copy's share of what it said of the unit, and the same as before for a unit that
        is kept while others are removed or added: of what is removed, as if it were silent. A source that was never
        built has nothing to follow with. An identity changes nothing and draws nothing: that is how it is asked
        beforehand, on a source that was built, whether it can. What is refused leaves it whole.

        Args:
            origin: of the axis: expanded, where h is flattened and a channel is several of its entries.
            generator: draws what begins at random.
            axis: of h, along which the units lie: 1, or the last one of tokens (N, T, C).

        Raises:
            ValueError: h has several floating-point members, another number of units along the axis, or units along
                an axis that is not the source's axis of features.
            TypeError: a network of the user's own, or the optimiser, does not say how it follows.
        """


def unit_axis(h: Tensor) -> int:
    """The axis of h that sources take for its features: the last of (N, T, C), else axis 1."""
    return 2 if h.dim() == 3 else 1


def check_units(members: Sequence[Tensor], origin: Origin, axis: int) -> None:
    """Raise `ValueError` if a source built for these members cannot follow the origin along this axis of h."""
    if len(members) != 1:
        raise ValueError(
            f"the units of h can change where h has one floating-point member, and it has {len(members)}: which of "
            "them has the units is not known. Cut the model elsewhere, or plan no event for the layer below this "
            "boundary."
        )
    (h,) = members
    shape = ("N", *h.shape[1:])
    if h.dim() < 2 or axis % h.dim() != unit_axis(h):
        raise ValueError(
            f"a source follows the units along the axis of h's features, {unit_axis(h)} for an h of shape "
            f"({', '.join(map(str, shape))}), got units along axis {axis}. Pass the axis of the layer's units (-1 for "
            "tokens); where it is not that of the features, plan no event for this layer."
        )
    origin.check_axis(h.shape, axis)


def remap_together_(sources: Iterable[object], origin: Origin, *, generator: torch.Generator, axis: int) -> None:
    """Remap several sources of one h, or none of them.

    Raises:
        TypeError: one has no `remap`; else as `Remappable.remap`.
    """
    following = [_remappable(source) for source in sources]
    for source in following:
        source.remap(Origin.identity(origin.num_old), generator=generator, axis=axis)
    for source in following:
        source.remap(origin, generator=generator, axis=axis)


def _remappable(source: object) -> Remappable:
    if not isinstance(source, Remappable):
        raise TypeError(
            f"a source must have remap(origin, *, generator, axis) where the units of h change, and "
            f"{type(source).__name__} has not. Give it this method (dni.Remappable), or plan no event for the layer "
            "below this boundary."
        )
    return source
