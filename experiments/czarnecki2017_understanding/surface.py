"""Which loss does a synthesizer believe in?

A synthesizer gives dL/dh, so along any path in h it says how the loss changes: integrated from where a sample is, it
implies a loss surface (a quadratic, if it is linear). Both surfaces are cut along a plane: all samples are moved by the
same a d1 + b d2, and the mean change of their loss is set against what the synthesizer says it is.
Source: Czarnecki et al. 2017 (arXiv 1703.00522), section on the loss implied by a synthetic gradient.

Letters: N samples, F features of h, S points of a side of the slice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["explained", "implied_surface", "slice_directions", "true_surface"]

_NUM_POINTS = 16
"""Of the midpoint rule along a path; exact from the first on for a linear synthesizer."""


def slice_directions(h: Tensor, target: Tensor) -> Tensor:
    """Two orthogonal directions of the slice, as long as the standard deviation of h along them.

    The first leads from the mean of class 0 to that of class 1, the second is the one along which the samples vary most
    beside it.

    Args:
        h: (N, F), F at least 2.
        target: labels 0 and 1, (N,).

    Returns:
        (2, F).
    """
    centred = h - h.mean(0)
    first = h[target == 1].mean(0) - h[target == 0].mean(0)
    first = first / first.norm()
    rest = centred - (centred @ first)[:, None] * first
    second = torch.linalg.svd(rest, full_matrices=False).Vh[0]
    return torch.stack([direction * (centred @ direction).std() for direction in (first, second)])


def true_surface(loss: Callable[[Tensor], Tensor], h: Tensor, *, directions: Tensor, side: Tensor) -> Tensor:
    """The mean change of the loss if every sample is moved by a d1 + b d2.

    Args:
        loss: of h moved, summed over the samples, through the stages above.
        h: (N, F).
        directions: d1 and d2, (2, F).
        side: values of a and of b, (S,).

    Returns:
        (S, S): rows are a, columns b.
    """
    here = loss(h)
    moved = [[loss(h + a * directions[0] + b * directions[1]) - here for b in side] for a in side]
    return torch.stack([torch.stack(row) for row in moved]) / len(h)


def implied_surface(estimate: Callable[[Tensor], Tensor], h: Tensor, *, directions: Tensor, side: Tensor) -> Tensor:
    """The same change, as a synthesizer has it: ∫ ⟨δ̂(h + t m), m⟩ dt over t from 0 to 1, with m = a d1 + b d2.

    Args:
        estimate: δ̂, (N, F) -> (N, F): dL/dh of the loss summed over the samples.
        h: (N, F).
        directions: d1 and d2, (2, F).
        side: values of a and of b, (S,).

    Returns:
        (S, S), as `true_surface`.
    """
    times = (torch.arange(_NUM_POINTS) + 0.5) / _NUM_POINTS
    surface = h.new_zeros(len(side), len(side))
    for row, a in enumerate(side):
        for column, b in enumerate(side):
            move = a * directions[0] + b * directions[1]
            along = [(estimate(h + t * move) @ move).sum() for t in times]
            surface[row, column] = torch.stack(along).mean() / len(h)
    return surface


def explained(implied: Tensor, true: Tensor) -> float:
    """R²: the share of the true surface's variance over the slice that the implied one accounts for; 1 is best."""
    return 1.0 - float((implied - true).square().sum() / (true - true.mean()).square().sum())
