"""How does an axis follow that holds more than the units: flattened, or with other things beside them?"""

from __future__ import annotations

from dni.structure.origin import NEW, Origin

__all__ = ["beside", "flattened", "tiled"]


def beside(origin: Origin, count: int) -> Origin:
    """The same change of an axis on which `count` other indices follow the units, and stay: labels beside h."""
    return Origin(
        num_old=origin.num_old + count,
        sources=(*origin.sources, *range(origin.num_old, origin.num_old + count)),
        scale=(*origin.scale, *(1.0,) * count),
    )


def tiled(origin: Origin, times: int) -> Origin:
    """The same change of an axis that holds all the units again and again: tokens (T, C) flattened to T*C, by T."""
    if times < 1:
        raise ValueError(f"an axis must hold the units once or more, got {times} times.")
    num_old = origin.num_old
    return Origin(
        num_old=num_old * times,
        sources=tuple(
            NEW if source == NEW else turn * num_old + source for turn in range(times) for source in origin.sources
        ),
        scale=origin.scale * times,
    )


def flattened(origin: Origin, length: int, *, units_last: bool) -> Origin:
    """The change of an axis of `length` entries to which the units were flattened, with what lies beside them.

    Args:
        origin: of the units.
        length: of the flattened axis, before the change.
        units_last: whether the units are the last of the axes that were flattened, (T, C), or the first, (C, H, W).

    Raises:
        ValueError: the length is no multiple of the number of units.
    """
    block, rest = divmod(length, origin.num_old)
    if rest or not block:
        raise ValueError(
            f"a flattened axis must hold each of the {origin.num_old} units equally often, got {length} entries. Give "
            "the origin of what was flattened."
        )
    return tiled(origin, block) if units_last else origin.expand(block)
