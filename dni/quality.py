"""How close is an estimated gradient to the true one?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import torch
from torch import Tensor

__all__ = ["compare_gradients", "compare_parameter_gradients"]


def compare_gradients(used: Sequence[Tensor], true: Sequence[Tensor]) -> dict[str, float]:
    """Cosine and norm ratio of two gradients at a stage's output, all members and samples as one vector.

    Args:
        used: the estimate's floating-point members, each (N, *F).
        true: the true gradient's, shaped alike.

    Returns:
        gradient_cosine, gradient_norm_ratio (used over true); 0 where a norm is 0.
    """
    cosine, ratio = _cosine_and_ratio(used, true)
    return {"gradient_cosine": cosine, "gradient_norm_ratio": ratio}


def compare_parameter_gradients(
    h: Sequence[Tensor], parameters: Sequence[Tensor], *, used: Sequence[Tensor], true: Sequence[Tensor]
) -> dict[str, float]:
    """Cosine and norm ratio of what the two gradients at h make of the parameters' gradients.

    The measure that matters: an estimate can be far from the truth sample by sample and still give the
    parameters the right gradient. The graph of h is kept and no `.grad` is touched.

    Args:
        h: the stage's floating-point outputs, with their graph.
        parameters: the stage's parameters.
        used: the estimate at h.
        true: the true gradient at h.

    Returns:
        parameter_cosine, parameter_norm_ratio; empty for a stage without parameters.
    """
    learned = [member.requires_grad for member in h]  # a member may depend on no parameter
    if not parameters or not any(learned):
        return {}
    outputs = list(compress(h, learned))
    pulled = [
        torch.autograd.grad(
            outputs, parameters, grad_outputs=list(compress(gradient, learned)), retain_graph=True, allow_unused=True
        )
        for gradient in (used, true)
    ]
    pairs = [(u, t) for u, t in zip(*pulled, strict=True) if u is not None and t is not None]
    if not pairs:
        return {}
    cosine, ratio = _cosine_and_ratio([u for u, _ in pairs], [t for _, t in pairs])
    return {"parameter_cosine": cosine, "parameter_norm_ratio": ratio}


def _cosine_and_ratio(used: Sequence[Tensor], true: Sequence[Tensor]) -> tuple[float, float]:
    u = torch.cat([member.detach().flatten() for member in used])
    t = torch.cat([member.detach().flatten() for member in true])
    norm_u, norm_t = u.norm().item(), t.norm().item()
    if norm_u == 0.0 or norm_t == 0.0:
        return 0.0, 0.0
    return torch.dot(u, t).item() / (norm_u * norm_t), norm_u / norm_t
