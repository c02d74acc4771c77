"""Which source takes the error at the network's output straight to a stage? A fixed random map of it.

Letters: N samples, C outputs of the network, F numbers in one sample's h.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dni.members import Members, carriers, like
from dni.sources.remapping import check_units
from dni.sources.source import Need, Signal, error_of
from dni.structure.layout import flattened
from dni.structure.origin import Origin

__all__ = ["DirectFeedbackAlignment"]


class DirectFeedbackAlignment(nn.Module):
    """Project the error at the network's output to h by a random matrix that never changes (DFA).

    g = e B, with e = dL/dy per sample, (N, C), and B fixed, (C, F) for each floating-point member of h. No weight of
    the stages above is used, and all stages learn at once, as soon as the loss is known.

    Source: Nøkland 2016 (arXiv 1609.01596): its δa = (B e) ⊙ f'(a), of which the stage's own backward pass does the
    f'(a), and more where the stage has several layers: inside a stage the chain is the true one. Differs: the entries
    of B are normal, of standard deviation `scale` / sqrt(C).

    Args:
        num_outputs: C, the numbers in one sample's output of the network.
        scale: size of g: with 1, a number of g has 1/sqrt(C) of the norm of e.

    Raises:
        ValueError: `num_outputs` is below 1 or `scale` is not positive; at each step, if the error is missing or is
            not of C numbers per sample.
    """

    needs = Need.ERROR
    learns_from = Need.NONE

    def __init__(self, num_outputs: int = 10, *, scale: float = 1.0) -> None:
        super().__init__()
        if num_outputs < 1 or not 0.0 < scale < math.inf:
            raise ValueError(
                f"num_outputs must be at least 1 and scale positive, got num_outputs {num_outputs}, scale {scale}."
            )
        self.num_outputs = num_outputs
        self.scale = scale
        self.feedback = nn.ParameterList()
        """B for each floating-point member; part of the state, and not learned."""
        self._templates: list[Tensor] = []
        """A tensor of no samples for each B, of its member's shape (0, *F), dtype and device."""

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        members = [member.new_empty((0, *member.shape[1:])) for member in carriers(h)]
        self._hold(members, [self._drawn(member.shape[1:].numel(), member, generator) for member in members])

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        """Columns of B follow their units, a copy's scaled by its share; those of new units are drawn as at build."""
        if not self._templates:
            return
        check_units(self._templates, origin, axis)
        if origin.is_identity:
            return
        member, old = self._templates[0], self.feedback[0].detach()
        columns = flattened(origin, old.shape[1], units_last=member.dim() == 3)
        new = columns.apply(old, 1, fill=self._drawn(len(columns.fresh), old, generator))
        self._hold([origin.raised(0).apply(member, axis)], [new])

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        error = error_of(signal, self).flatten(1)
        if error.shape[1] != self.num_outputs:
            raise ValueError(
                f"DirectFeedbackAlignment was made for {self.num_outputs} outputs of the network, and the error at its "
                f"output has {error.shape[1]} per sample. Set num_outputs to {error.shape[1]}."
            )
        pairs = zip(carriers(h), self.feedback, strict=True)
        return like(h, [(error.to(feedback) @ feedback.detach()).view(member.shape) for member, feedback in pairs])

    def learn(self, h: Members, signal: Signal) -> float:
        return 0.0

    def get_extra_state(self) -> list[Tensor]:
        """What B is for: a tensor of no samples for each."""
        return self._templates

    def set_extra_state(self, state: Any) -> None:
        """Become ready to load B: `load_state_dict` calls this before it visits the matrices."""
        self._hold(state, [member.new_empty((self.num_outputs, member.shape[1:].numel())) for member in state])

    def _drawn(self, count: int, like: Tensor, generator: torch.Generator) -> Tensor:
        """`count` columns."""
        drawn = torch.randn(self.num_outputs, count, generator=generator, device=generator.device).to(like)
        return drawn * (self.scale / math.sqrt(self.num_outputs))

    def _hold(self, templates: list[Tensor], matrices: list[Tensor]) -> None:
        self._templates = templates
        self.feedback = nn.ParameterList(nn.Parameter(matrix, requires_grad=False) for matrix in matrices)
