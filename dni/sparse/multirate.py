"""Slow layers learn at one step in k, fast ones at the others; slow ones drift in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dni.cadences.blocks import BlockCadence
from dni.cadences.cadence import Periodic
from dni.cadences.pace import Draw
from dni.cadences.selectors import Layer
from dni.sparse.participation import Layout

__all__ = ["Multirate"]


@dataclass(frozen=True)
class Multirate:
    """Use both: `Config(participation=policy, blocks=policy.blocks)`, with SGD that has momentum.

        step = 0, k, 2k, ...     gradient of the slow layers only:    m_s <- mu m_s + g_s
        else                     gradient of the fast layers only:    m_f <- mu m_f + g_f,    w_f <- w_f - h m_f
        at every step                                                 w_s <- w_s - h m_s

    so the slow layers take steps of size k h, in k parts (linear drift).    Source: Vlaar & Leimkuhler 2022 (arXiv
    2106.10771) and its code. Differs: the slow layers also move at the step that brings their gradient, so that the k
    parts make k h.
    """

    slow: tuple[str, ...]
    """Names of layers."""
    every: int = 5
    """k."""
    drift: bool = True
    """False: slow layers take their whole step of size k h at once."""

    def __post_init__(self) -> None:
        if not self.slow or self.every < 2:
            raise ValueError(
                f"Multirate needs slow layers, and k of at least 2, got {len(self.slow)} and {self.every}. "
                "With k = 1 nothing is slow."
            )

    @property
    def blocks(self) -> tuple[BlockCadence, ...]:
        """The slow layers as blocks of their own."""
        return tuple(BlockCadence(Layer(name), Periodic(), drifts=self.drift) for name in self.slow)

    @property
    def sets_rates(self) -> bool:
        return not self.drift

    @property
    def forgets(self) -> bool:
        return False

    def check(self, layout: Layout) -> None:
        layout.check(*self.slow)
        if set(layout.blocks) <= set(self.slow):
            raise ValueError(f"some layer must be fast, but all are slow: {', '.join(layout.blocks)}.")

    def learning(self, step: int, layout: Layout, draw: Draw) -> Mapping[str, float]:
        if step % self.every == 0:
            return dict.fromkeys(self.slow, 1.0 if self.drift else float(self.every))
        return {block: 1.0 for block in layout.blocks if block not in self.slow}
