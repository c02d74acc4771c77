"""How many directions does a layer use?

Letters: N samples, F features, σ_k singular values of the (N, F) matrix of features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from dni.measures.layer_measure import check_nonempty, check_same_widths, rows_by_name
from dni.measures.moments import Moments

__all__ = ["About", "Rank", "Ranks", "check_width", "effective_rank", "stable_rank"]

About: TypeAlias = Literal["mean", "zero"]
"""Where directions begin. mean: what varies from sample to sample. zero: the features as they are, with their mean."""


@dataclass(frozen=True, kw_only=True)
class Rank:
    """What one layer uses of its features."""

    effective_rank: float
    stable_rank: float
    singular_values: Tensor
    """Divided by √N, descending, (F,), float64: about the mean, standard deviations along the principal directions."""


def effective_rank(singular_values: Tensor) -> float:
    """exp of the entropy of the normalised singular values: exp(-Σ p_k ln p_k), p_k = σ_k / Σ σ.

    Source: Roy and Vetterli 2007 (EUSIPCO), Definition 1.

    Args:
        singular_values: (K,), at least 0, in any order.

    Returns:
        In [1, K]; 0 if all are 0.
    """
    values = _checked(singular_values)
    share = values / values.sum()
    return float(torch.exp(torch.special.entr(share).sum())) if bool(values.any()) else 0.0


def stable_rank(singular_values: Tensor) -> float:
    """Σ σ² / max σ²: the squared Frobenius norm by the squared spectral norm. In [1, K]; 0 if all are 0.

    Source: Rudelson and Vershynin 2007, section 1.
    """
    values = _checked(singular_values)
    return float((values / values.max()).square().sum()) if bool(values.any()) else 0.0


class Ranks:
    """Effective and stable rank of each layer's features over all samples, from their covariance.

    A covariance of F features takes 8 F² bytes. Singular values below √(F ε) of the largest, ε of 64 bits, cannot be
    told from rounding after that and count as 0.

    Args:
        about: where directions begin; Roy and Vetterli's is of the matrix as it is, "zero".
        max_features: F may be at most this.

    Raises:
        ValueError: `about` is none of the two.
    """

    def __init__(self, *, about: About = "mean", max_features: int = 4096) -> None:
        if about not in get_args(About):
            raise ValueError(f"about must be one of {', '.join(get_args(About))}, got {about!r}.")
        self._about, self._max_features = about, max_features
        self._moments: dict[str, Moments] = {}

    def update(self, features: Mapping[str, Tensor], target: Tensor | None = None) -> None:
        """Take in a minibatch; `target` is not looked at.

        Raises:
            ValueError: as `LayerMeasure.update`; or a layer has too many features, or another number than before.
        """
        rows = rows_by_name(features)
        check_same_widths(rows, {name: len(own.mean) for name, own in self._moments.items()})
        for name, h in rows.items():
            check_width(name, h.shape[1], self._max_features)
        for name, h in rows.items():
            self._moments.setdefault(name, Moments()).add(h)

    def result(self) -> dict[str, Rank]:
        """By layer."""
        check_nonempty(len(self._moments), self)
        return {name: self._rank(moments) for name, moments in self._moments.items()}

    def _rank(self, moments: Moments) -> Rank:
        second = moments.scatter / moments.count
        if self._about == "zero":
            second = second + torch.outer(moments.mean, moments.mean)
        variances = torch.linalg.eigvalsh(second).flip(0)
        noise = len(variances) * torch.finfo(variances.dtype).eps * variances[0]
        values = torch.where(variances > noise, variances, torch.zeros_like(variances)).sqrt()
        return Rank(effective_rank=effective_rank(values), stable_rank=stable_rank(values), singular_values=values)

    def state_dict(self) -> dict[str, Any]:
        """Moments by layer."""
        return {name: moments.state_dict() for name, moments in self._moments.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._moments = {name: Moments() for name in state}
        for name, moments in self._moments.items():
            moments.load_state_dict(state[name])


def check_width(name: str, num_features: int, max_features: int) -> None:
    """Raise `ValueError` if a covariance of so many features is not to be had."""
    if num_features > max_features:
        raise ValueError(
            f"{name} must have at most {max_features} features for its covariance, got {num_features}, which would "
            f"take {8 * num_features**2 / 2**30:.1f} GiB. Average it over positions first (mean_over_positions), or "
            "raise max_features."
        )


def _checked(singular_values: Tensor) -> Tensor:
    values = singular_values.detach().double()
    if values.dim() != 1 or not len(values) or not bool((values.isfinite() & (values >= 0)).all()):
        raise ValueError(
            f"singular values must be a vector of finite numbers of at least 0, got {tuple(values.shape)} with least "
            f"{float(values.min()) if values.numel() else 'none'}."
        )
    return values
