"""How have the units at a boundary changed, and how does what is in flight follow?

Each side of a boundary counts the changes that it has made or followed: the generation. A message says of which
generation its tensors are, so nothing is taken for what it is not.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from dni import Origin, map_members, translate
from pipeline.errors import RunError
from pipeline.messages import Payload

__all__ = ["Boundary"]


class Boundary:
    """The changes of the units of one boundary, as one of its sides has them.

    Args:
        generation: changes before; nothing of theirs is in flight any more.
    """

    def __init__(self, generation: int = 0) -> None:
        self._first = generation
        self._origins: list[tuple[Origin, int]] = []

    @property
    def generation(self) -> int:
        """Changes so far."""
        return self._first + len(self._origins)

    def copy(self) -> Boundary:
        """One that may change by itself."""
        other = Boundary(self._first)
        other._origins = list(self._origins)
        return other

    def change(self, origin: Origin, *, axis: int) -> None:
        """The units are others from here on; the origin is of the entries along this axis of h."""
        self._origins.append((origin, axis))

    def check(self, generation: int, *, where: str) -> None:
        """Raise `RunError` if what came is not of the units of today."""
        if generation != self.generation:
            raise RunError(
                f"{where}: what came is of generation {generation} of the boundary's units, this side is at "
                f"{self.generation}. A change of structure was lost or came twice."
            )

    def translate(
        self, payload: Payload, since: int, *, until: int | None = None, holds: Literal["activation", "gradient"]
    ) -> Payload:
        """Activations or gradients of an earlier generation as those of a later one.

        What is kept is copied, copies share a gradient as they share what it is of, and of what was not there, or is
        no more, there is nothing: 0.

        Args:
            payload: shaped as h was in generation `since`.
            since: generation that it is of.
            until: generation that is wanted, not before `since`; None: that of today.
            holds: what it is.

        Raises:
            RunError: it is of a generation of which nothing is in flight any more, or of a later one than is wanted.
        """
        until = self.generation if until is None else until
        if not self._first <= since <= until <= self.generation:
            raise RunError(
                f"units of generation {since} are wanted as those of {until}, but this side of the boundary knows "
                f"generations {self._first} to {self.generation}, and how each follows from the one before. A change "
                "of structure was lost or came twice."
            )
        payload = map_members(Tensor.detach, payload)
        for origin, axis in self._origins[since - self._first : until - self._first]:
            payload = translate(payload, origin, holds=holds, axis=axis)
        return payload
