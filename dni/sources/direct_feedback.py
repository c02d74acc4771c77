"""Which source takes the error at the network's output straight to a stage? A fixed random map of it.

Letters: N samples, C outputs of the network, F numbers in one sample's h.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dni.members import Members, carriers, like
from dni.sources.source import Need, Signal, error_of

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

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        deviation = self.scale / math.sqrt(self.num_outputs)
        self._hold(
            [
                deviation
                * torch.randn(self.num_outputs, member[0].numel(), generator=generator, device=generator.device).to(
                    member
                )
                for member in carriers(h)
            ]
        )

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
        """A tensor without entries for each B: its length, dtype and device are B's."""
        return [feedback.new_empty((0, feedback.shape[1])) for feedback in self.feedback]

    def set_extra_state(self, state: Any) -> None:
        """Become ready to load B: `load_state_dict` calls this before it visits the matrices."""
        self._hold([template.new_empty((self.num_outputs, template.shape[1])) for template in state])

    def _hold(self, matrices: list[Tensor]) -> None:
        self.feedback = nn.ParameterList(nn.Parameter(matrix, requires_grad=False) for matrix in matrices)
