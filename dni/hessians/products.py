"""What does the Hessian of a loss make of a direction, without being written down?

Letters: P chosen parameters, B batches, y the module's output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp

from dni.hessians.objective import Batch, Objective
from dni.hessians.operator import SymmetricOperator

__all__ = ["gauss_newton_operator", "hessian_operator"]


def hessian_operator(objective: Objective) -> SymmetricOperator:
    """H, the second derivative of the loss by the chosen parameters: H v = d/dt ∇L(θ + t v) at t = 0.

    Forward over reverse: a derivative along v of the gradient, so no graph of a gradient is kept. A product costs as
    much as one and a half gradients (of one layer) to four (of all), in the memory of one batch.
    Source: Pearlmutter 1994.

    Args:
        objective: the loss, of P parameters.

    Returns:
        H, (P, P), of the loss over all batches (their mean or their sum over samples). Of a piecewise linear network
        with a piecewise smooth loss it is that of the piece.
    """

    def change(direction: dict[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        gradient = grad(partial(objective.loss, batch=batch))
        found: Mapping[str, Tensor] = jvp(gradient, (objective.values,), (direction,))[1]
        return found

    return _over_batches(objective, change)


def gauss_newton_operator(objective: Objective) -> SymmetricOperator:
    """G = Σ Jᵀ A J, with J = ∂y/∂θ and A = ∂²L/∂y²: the Hessian of the loss of the linearised module.

    Positive semidefinite where the loss is convex in y, and equal to H of a layer whose output the module turns into y
    by piecewise linear steps. Source: Schraudolph 2002.

    Args:
        objective: the loss, of P parameters.

    Returns:
        G, (P, P), over all batches.
    """

    def change(direction: dict[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        x, target = batch
        output = partial(objective.output, x=x)
        # Within vjp tensors ask for gradients. Where none does, a TransformerEncoderLayer in evaluation takes a fused
        # path, which has no forward derivative.
        moved = jvp(lambda values: vjp(output, values)[0], (objective.values,), (direction,))
        slope = grad(partial(objective.loss_of_output, target=target))
        bent = jvp(slope, moved[:1], moved[1:])[1]
        pull_back = vjp(output, objective.values)[1]
        found: Mapping[str, Tensor] = pull_back(bent)[0]
        return found

    return _over_batches(objective, change)


def _over_batches(
    objective: Objective, change: Callable[[dict[str, Tensor], Batch], Mapping[str, Tensor]]
) -> SymmetricOperator:
    def product(vector: Tensor) -> Tensor:
        direction, total = objective.split(vector), torch.zeros_like(vector)
        for index in range(objective.num_batches):
            try:
                total += objective.flat(change(direction, objective.batch(index)))
            except NotImplementedError as error:
                raise TypeError(
                    "every operation of the module and the loss needs a forward-mode derivative, and one has none: "
                    f"{str(error).splitlines()[0]} For attention, call it within "
                    "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)."
                ) from error
        return total * objective.scale

    return SymmetricOperator(size=objective.size, dtype=objective.dtype, device=objective.device, product=product)
