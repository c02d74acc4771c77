"""What if several losses act on one stage?"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor, nn

from dni.members import Members, carriers, like
from dni.sources.implied import implied_loss
from dni.sources.remapping import remap_together_
from dni.sources.source import GradientSource, Need, Signal, gradient_of
from dni.structure.origin import Origin

__all__ = ["Sum", "local_parts"]

_FROM_ABOVE = Need.GRADIENT | Need.ERROR | Need.LOSS


class Sum(nn.Module):
    """Add up what several sources say: g = g_1 + g_2 + ..., as of a stage with a task of its own that others also use.

    The gradient of a sum of losses is the sum of their gradients. So a stage whose output is read by a head of its own
    and by the stages above has `Sum(LocalLoss(...), SyntheticGradient())`: the first is the gradient of its own task,
    the second predicts the other's.    Source: the two networks of Jaderberg et al. 2017 (arXiv 1608.05343), section
    3.2, of which the first learns from its own loss and from the synthetic gradient of the second.

    Each source is asked, and learns, as it would alone, from all that it needs; one whose gradient, error or loss has
    not come (the step was dropped above) says nothing and learns nothing, and what says nothing adds nothing. A stage
    waits for all that any of them waits for. At a step that does not go on to the stages above, only those act and
    learn that never ask for anything from there. At a sync step the true gradient takes the place of all the others,
    and those still add theirs.

    Args:
        sources: one or more; a sum among them is opened.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, *sources: GradientSource) -> None:
        super().__init__()
        if not sources:
            raise ValueError("a sum must be of one source or more, got none.")
        opened: list[Any] = []
        for source in sources:
            opened += source._parts() if isinstance(source, Sum) else [source]
        self.sources = nn.ModuleList(opened)
        self.needs: Need = reduce(or_, (source.needs for source in opened))
        self.learns_from: Need = reduce(or_, (source.learns_from for source in opened))

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        for source in self._parts():
            source.build(h, generator=generator)

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        remap_together_(self._parts(), origin, generator=generator, axis=axis)

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        return _added(h, [part.estimate(h, signal) for part in self._acting(signal) if _has_come(part.needs, signal)])

    def implied_loss(self, h: Members, signal: Signal) -> Tensor:
        """As `ImpliesLoss`.

        Raises:
            TypeError: a source implies none.
        """
        return torch.stack([implied_loss(part, h, signal) for part in self._acting(signal)]).sum()

    def with_true(self, h: Members, signal: Signal) -> Members:
        """The gradient from above in the place of the sources that ask for something from there, and what others say.

        Raises:
            ValueError: it has not arrived.
        """
        own = [part.estimate(h, signal) for part in self.local_parts()]
        total = _added(h, [gradient_of(signal, self), *own])
        assert total is not None
        return total

    def learn(self, h: Members, signal: Signal) -> float:
        """Let each learn that can; the sum of their losses."""
        learning = [part for part in self._acting(signal) if part.learns_from and _has_come(part.learns_from, signal)]
        return sum((part.learn(h, signal) for part in learning), 0.0)

    def local_parts(self) -> tuple[GradientSource, ...]:
        """Those that never ask for anything from above."""
        return tuple(source for source in self._parts() if _is_local(source))

    def _acting(self, signal: Signal) -> tuple[GradientSource, ...]:
        return self._parts() if signal.goes_on else self.local_parts()

    def _parts(self) -> tuple[GradientSource, ...]:
        return tuple(self.sources)  # type: ignore[arg-type]


def local_parts(source: GradientSource) -> tuple[GradientSource, ...]:
    """What of a source asks for nothing from above, neither to act nor to learn: all of it, some, or nothing.

    It acts and learns at the steps, too, that do not go on to those stages.
    """
    if isinstance(source, Sum):
        return source.local_parts()
    return (source,) if _is_local(source) else ()


def _is_local(source: GradientSource) -> bool:
    return not (source.needs | source.learns_from) & _FROM_ABOVE


def _has_come(needs: Need, signal: Signal) -> bool:
    """Whether the signal holds what is asked of the stages above."""
    held = {Need.GRADIENT: signal.gradient, Need.ERROR: signal.error, Need.LOSS: signal.loss}
    return all(value is not None for need, value in held.items() if needs & need)


def _added(h: Members, gradients: list[Members | None]) -> Members | None:
    given = [carriers(gradient) for gradient in gradients if gradient is not None]
    if not given:
        return None
    return like(h, [reduce(torch.add, members) for members in zip(*given, strict=True)])
