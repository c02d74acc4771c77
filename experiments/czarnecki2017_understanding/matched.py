"""Which synthesizers and losses does the paper set against each other?

A linear synthesizer takes the loss for a quadratic in h. That is exact for the squared error; for the log loss behind a
linear map the gradient is Wᵀ(softmax(W h + b) - onehot(y)), and the synthesizer that matches it has that form.

Letters: N samples, F features of h, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MatchedToLogLoss", "SquaredError", "matched"]


class SquaredError(nn.Module):
    """½ Σ over samples and classes of (y - onehot(target))²; its gradient at y is y - onehot(target)."""

    reduction = "sum"

    def forward(self, y: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (y - F.one_hot(target, y.shape[1]).to(y.dtype)).square().sum()


class MatchedToLogLoss(nn.Module):
    """δ = softmax(h A + c) B - y D, for a log loss behind a linear map.

    Source: Czarnecki et al. 2017 (arXiv 1703.00522), the conditional synthesizer for the log loss. B and D begin at
    zero, so that a new one sends nothing.

    Args:
        num_features: F.
        num_classes: K.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.inner = nn.Linear(num_features, num_classes)
        self.outer = nn.Linear(num_classes, num_features, bias=False)
        self.labels = nn.Linear(num_classes, num_features, bias=False)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.labels.weight)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        """(N, F), (N, K) one-hot labels -> (N, F)."""
        found: Tensor = self.outer(torch.softmax(self.inner(h), dim=1)) - self.labels(context)
        return found


def matched(h: Tensor, num_context: int) -> nn.Module:
    """As a synthesizer of `ConditionalSyntheticGradient`."""
    return MatchedToLogLoss(h.shape[1], num_context)
