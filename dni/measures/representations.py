"""What does a layer know? Geometry of its representations, and what a linear map reads from them.

Letters: N samples, F features of a layer, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["class_contrast", "compare_dissimilarities", "dissimilarity", "fit_linear_probe", "linear_probe_accuracy"]


def dissimilarity(h: Tensor) -> Tensor:
    """How different a layer finds each two samples: 1 minus the correlation of their features.

    D_mn = 1 - corr(h_m, h_n), each sample's features centred on their own mean. Two layers with the same D differ by
    no more than a rotation and scale of what sets samples apart; so layers of different nets can be compared.
    Source: Kriegeskorte et al. 2008, representational similarity analysis (RSA), as used by Czarnecki et al. 2017
    (arXiv 1703.00522).

    Args:
        h: the layer's output, (N, *F).

    Returns:
        (N, N), float64, symmetric, in [0, 2], 0 on the diagonal; 1 between a sample of constant features and any other.
    """
    flat = h.detach().reshape(len(h), -1).double()
    units = F.normalize(flat - flat.mean(1, keepdim=True), dim=1)
    return (1.0 - units @ units.T).clamp(0.0, 2.0).fill_diagonal_(0.0)


def compare_dissimilarities(first: Tensor, second: Tensor) -> float:
    """How alike two layers see the same samples: the correlation of their dissimilarities over all pairs of samples.

    Source: Kriegeskorte et al. 2008. Differs: Pearson's correlation, not the ranks'.

    Args:
        first: D of one layer, (N, N).
        second: D of the other, for the same samples in the same order.

    Returns:
        In [-1, 1]; 0 if one of them finds all pairs equally different.

    Raises:
        ValueError: they are not of the same samples.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"dissimilarities must be of the same samples, got {tuple(first.shape)} and {tuple(second.shape)}. "
            "Take both from the same batch."
        )
    above = torch.triu_indices(len(first), len(first), offset=1)
    a, b = (matrix[above[0], above[1]].double() for matrix in (first, second))
    a, b = a - a.mean(), b - b.mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale else 0.0


def class_contrast(matrix: Tensor, target: Tensor) -> float:
    """How much of the geometry is about classes: mean dissimilarity of two samples of different classes minus that of
    two of the same class.

    Args:
        matrix: D of a layer, (N, N).
        target: labels, (N,).

    Raises:
        ValueError: all samples are of one class, or no two are of the same.
    """
    same = target[:, None] == target[None, :]
    pairs = ~torch.eye(len(target), dtype=torch.bool, device=target.device)
    within, between = matrix[same & pairs], matrix[~same]
    if not len(within) or not len(between):
        raise ValueError(
            f"a contrast needs pairs of the same class and of different ones, got {len(within)} and {len(between)} "
            f"among {len(target)} samples. Take more samples."
        )
    return float(between.mean() - within.mean())


def fit_linear_probe(h: Tensor, target: Tensor, *, num_classes: int, ridge: float = 1e-3) -> Tensor:
    """The linear map that best reads the class from a layer whose weights stay as they are.

    A = argmin (1/N) Σ_n |A [h_n; 1] - onehot(y_n)|² + r |A_h|², with r = ridge times the mean variance of a feature, so
    that the scale of h does not matter. Solved exactly: nothing is drawn or tuned.
    Source: Alain and Bengio 2016 (arXiv 1610.01644). Differs: least squares in place of a logistic regression.

    Args:
        h: the layer's output, (N, *F).
        target: labels in [0, C), (N,).
        num_classes: C.
        ridge: the penalty, relative to the mean variance of a feature.

    Returns:
        (F + 1, C), float64; the last row is the bias.
    """
    flat = h.detach().reshape(len(h), -1).double()
    wanted = F.one_hot(target, num_classes).double()
    mean_h, mean_y = flat.mean(0), wanted.mean(0)
    centred = flat - mean_h
    covariance = centred.T @ centred / len(flat)
    variance = covariance.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    penalty = ridge * variance * torch.eye(len(covariance), dtype=torch.float64, device=h.device)
    weight = torch.linalg.solve(covariance + penalty, centred.T @ (wanted - mean_y) / len(flat))
    return torch.cat([weight, (mean_y - mean_h @ weight)[None]])


def linear_probe_accuracy(probe: Tensor, h: Tensor, target: Tensor) -> float:
    """Fraction of samples whose class the probe reads from the layer.

    Args:
        probe: from `fit_linear_probe`, (F + 1, C).
        h: the layer's output for other samples, (N, *F).
        target: their labels, (N,).
    """
    flat = h.detach().reshape(len(h), -1).double()
    return float((flat @ probe[:-1] + probe[-1]).argmax(1).eq(target).double().mean())
