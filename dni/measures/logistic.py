"""What does the best logistic regression read from a layer?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["fit_logistic_probe"]

_MAX_STEPS = 1000
"""Of L-BFGS. Standardised as below, fits take tens to a few hundred."""


def fit_logistic_probe(
    h: Tensor, target: Tensor, *, num_classes: int, ridge: float = 1e-3, start: Tensor | None = None
) -> Tensor:
    """The logistic regression that best reads the class from a layer whose weights stay as they are.

    A = argmin (1/N) Σ_n CE(A [h_n; 1], y_n) + (r/2) |A_h|², with r = ridge times the mean variance of a feature, so
    that the scale of h does not matter; the bias is free. The minimum is unique but for a constant added to all biases.
    By L-BFGS in 64 bits on all samples: nothing is drawn.
    Source: Alain and Bengio 2016 (arXiv 1610.01644). Differs: fitted to its end, with a penalty.

    Args:
        h: the layer's output, (N, *F).
        target: labels in [0, C), (N,).
        num_classes: C.
        ridge: the penalty, relative to the mean variance of a feature; greater than 0, or separable classes have no
            minimum.
        start: a probe to begin at, (F + 1, C), as one of a near penalty; None: at 0.

    Returns:
        (F + 1, C), float64; the last row is the bias, of mean 0. As from `fit_linear_probe`.

    Raises:
        ValueError: the penalty is not greater than 0.
    """
    if not ridge > 0:
        raise ValueError(f"a logistic probe must have a penalty greater than 0 to have a minimum, got {ridge}.")
    flat = h.detach().reshape(len(h), -1).double()
    mean = flat.mean(0)
    deviation = (flat - mean).square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    rows = F.pad((flat - mean) / deviation, (0, 1), value=1.0)
    weight = rows.new_zeros(rows.shape[1], num_classes)
    if start is not None:
        weight[:-1], weight[-1] = start[:-1] * deviation, start[-1] + mean @ start[:-1]
    _descend_(weight, rows, target, ridge)
    scaled = weight[:-1] / deviation
    bias = weight[-1] - mean @ scaled
    return torch.cat([scaled, (bias - bias.mean())[None]])


def _descend_(weight: Tensor, rows: Tensor, target: Tensor, ridge: float) -> None:
    optimizer = torch.optim.LBFGS(
        [weight],
        max_iter=_MAX_STEPS,
        tolerance_grad=1e-10,
        tolerance_change=1e-16,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        logits = rows @ weight
        error = (torch.softmax(logits, dim=1) - F.one_hot(target, logits.shape[1])) / len(rows)
        weight.grad = rows.T @ error
        weight.grad[:-1] += ridge * weight[:-1]
        return F.cross_entropy(logits, target) + 0.5 * ridge * weight[:-1].square().sum()

    with torch.no_grad():
        # LBFGS turns gradients on around the closure; these are written down and need none.
        optimizer.step(closure)  # type: ignore[no-untyped-call]
