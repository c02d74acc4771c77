"""What lies between backprop and a source of a stage's own?"""

from __future__ import annotations

import torch
from torch import nn

from dni.members import Members, carriers, like
from dni.schedules.schedule import Schedule
from dni.sources.remapping import remap_together_
from dni.sources.source import GradientSource, Need, Signal, gradient_of
from dni.structure.origin import Origin

__all__ = ["MixedGradient"]


class MixedGradient(nn.Module):
    """Mix the gradient from above with what another source says: BP(λ).

    ḡ = λ δ + (1 - λ) ĝ, with δ = dL/dh as it came from above and ĝ the source's estimate. ḡ moves the stage, and pulled
    back through it is the δ of the stage below, so over k boundaries the true gradient keeps a share of λ^k. λ = 1 is
    `TrueGradient` and λ = 0 the source alone, both bit for bit. A stage with it waits for δ at every step, at λ = 0,
    too: a mixture saves no time. The mixed source sees δ only when it learns, as it would alone.

    Source: Jaderberg et al. 2017 (arXiv 1608.05343), supplement A; the formula is from memory and agrees with public
    code. Differs: ĝ is fitted to δ, not to ḡ. That is the same direction without the factor λ, with which nothing would
    be learned at λ = 0, where the paper fits ĝ to the gradient unrolled through one layer.

    Args:
        source: gives ĝ, and learns from δ if it learns from gradients. Where it gives none (`NoGradient`), nothing is
            learned from a step unless λ = 1.
        share: λ in [0, 1], a number or a function of the step.

    Raises:
        ValueError: λ lies outside [0, 1]; a schedule's at the step that it is asked for.
    """

    def __init__(self, source: GradientSource, share: float | Schedule = 0.5) -> None:
        super().__init__()
        self.source = source
        self.needs = source.needs | Need.GRADIENT
        self.learns_from = source.learns_from
        self._share = share
        if not callable(share):
            _check(share, where="")

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        self.source.build(h, generator=generator)

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        remap_together_([self.source], origin, generator=generator, axis=axis)

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        share = self._share_at(signal.step)
        if share == 1.0:
            return signal.gradient
        own = self.source.estimate(h, signal)
        if share == 0.0 or own is None:
            return own
        pairs = zip(carriers(gradient_of(signal, self)), carriers(own), strict=True)
        return like(h, [share * true + (1.0 - share) * estimate for true, estimate in pairs])

    def learn(self, h: Members, signal: Signal) -> float:
        return self.source.learn(h, signal)

    def _share_at(self, step: int) -> float:
        if not callable(self._share):
            return self._share
        share = self._share(step)
        _check(share, where=f" at step {step}")
        return share


def _check(share: float, *, where: str) -> None:
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"the true gradient's share must lie in [0, 1], got {share}{where}. 1 is backprop.")
