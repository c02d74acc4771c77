"""What becomes of a message that was made before the units at its boundary changed, and is read after?

In flight are activations h and gradients dL/dh. A copy computes what its unit did, and its gradient is its share; new
units were silent, and what was silent has no gradient.

              kept    copied    new
    h         h       h         0
    dL/dh     g       a g       0
"""

from __future__ import annotations

from typing import Literal

from dni.members import Members, as_tuple, carriers
from dni.structure.origin import Origin

__all__ = ["translate"]


def translate(members: Members, origin: Origin, *, holds: Literal["activation", "gradient"], axis: int = 1) -> Members:
    """An activation or a gradient of before the change, as it is after.

    Args:
        members: h or dL/dh, (N, C, ...), or a tuple with one floating-point member; what else is in it, and None,
            stays as it is.
        origin: of the units.
        holds: what the members are.
        axis: of the units.

    Returns:
        The same with `origin.num_new` units.

    Raises:
        ValueError: there are several floating-point members, or the origin is of another number of units.
    """
    if holds not in ("activation", "gradient"):
        raise ValueError(f"what is translated holds an 'activation' or a 'gradient', got {holds!r}.")
    num_carriers = len(carriers(members))
    if num_carriers > 1:
        raise ValueError(
            f"units can change at a boundary that one floating-point tensor crosses, got {num_carriers}: which of them "
            "has the units is not known. Cut the model elsewhere, or leave the layer below this boundary as it is."
        )
    own = origin if holds == "gradient" else origin.raised(0)
    translated = tuple(
        own.apply(member, axis) if member is not None and member.is_floating_point() else member
        for member in as_tuple(members)
    )
    if isinstance(members, tuple):
        return translated
    (single,) = translated
    assert single is not None
    return single
