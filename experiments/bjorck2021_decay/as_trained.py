"""What is the loss of a batch as training sees it, as a function of the weights alone?

In training BatchNorm normalises by the statistics of the batch, so the scale of the weights before it does nothing. In
evaluation it does something: the running statistics stay where they are when the weights are scaled. So curvature that
is to be compared between weights of different norms is that of training's loss, of one batch.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

__all__ = ["BatchStatistics", "as_trained"]


class BatchStatistics(nn.Module):
    """BatchNorm by the statistics of what it is given, (N, F), whichever mode it is in, and without running ones."""

    def __init__(self, norm: nn.BatchNorm1d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(0)
        scale = (centred.square().mean(0) + self.eps).rsqrt()
        return centred * scale * self.weight + self.bias


def as_trained(network: nn.Sequential) -> nn.Sequential:
    """A copy whose loss of a batch is that of training; parameters keep their names."""
    copied = (copy.deepcopy(layer) for layer in network)
    return nn.Sequential(*(BatchStatistics(own) if isinstance(own, nn.BatchNorm1d) else own for own in copied))
