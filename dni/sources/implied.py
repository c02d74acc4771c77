"""Which loss does a stage see, if all that it knows of the network's is what its source says?

A local loss and the loss itself are that loss. A gradient field M(h) that is no loss's implies one along any path,
∫ ⟨M(h), dh⟩: its value depends on the path, its derivatives along a line do not.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dni.members import Members
from dni.sources.source import Signal

__all__ = ["ImpliesLoss", "field_loss", "implied_loss"]


@runtime_checkable
class ImpliesLoss(Protocol):
    """A source whose gradient at h is that of a loss of h, known to it without the stages above."""

    def implied_loss(self, h: Members, signal: Signal) -> Tensor:
        """That loss, summed over samples, a scalar: its gradient at h is what `estimate` gives, which may be
        differentiated further. Its value means something only if it is a loss's. Changes nothing."""


def implied_loss(source: object, h: Members, signal: Signal) -> Tensor:
    """The loss that a source implies.

    Args:
        source: of a stage; built.
        h: the stage's output, (N, *F) or a tuple of such.
        signal: of the microbatch.

    Returns:
        A scalar to be differentiated by h, to any order. See `ImpliesLoss`.

    Raises:
        TypeError: it implies none.
        ValueError: a network of the source has BatchNorm or dropout, or something has not come.
    """
    if not isinstance(source, ImpliesLoss):
        raise TypeError(
            f"{type(source).__name__} implies no loss: what it says is no function of the stage's output alone. Those "
            "that do are LossGradient, LocalLoss, SyntheticGradient, ConditionalSyntheticGradient, and Sum and "
            "OwnLabels of such."
        )
    return source.implied_loss(h, signal)


def field_loss(h: Tensor, gradient: Tensor) -> Tensor:
    """A scalar of value 0 whose gradient at h is a field's there; all that follows from it is differentiated exactly.

    Its second derivative along dh and dh' is dh' · (∂M/∂h) dh, which is symmetric if M is a gradient. On a line
    h(e), all derivatives are those of ∫ ⟨M(h(e)), h'(e)⟩ de.
    Source: Czarnecki et al. 2017 (arXiv 1703.00522), the loss implied by a synthetic gradient.

    Args:
        h: (N, *F).
        gradient: M(h), shaped as h, with its graph to h.
    """
    loss: Tensor = _FieldLoss.apply(h, gradient)  # type: ignore[no-untyped-call]
    return loss


class _FieldLoss(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, gradient: Tensor) -> Tensor:
        return h.new_zeros(())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None
