"""Do two layers, of any widths and of any networks, hold the same representation, up to a rotation and a scale?

Letters: N samples of all minibatches, n of one, L layers, K and M Gram matrices (n, n).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dni.measures.comparison import Comparison, Sides
from dni.measures.layer_measure import check_nonempty, rows_by_name

__all__ = ["LinearCKA", "linear_cka", "unbiased_hsic"]

_FEWEST = 4
"""Samples: unbiased HSIC divides by n - 3."""


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Linear CKA of two layers, of all samples at once: ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), X and Y centred, Frobenius norms.

    Source: Kornblith et al. 2019 (arXiv 1905.00414), eq. 5. With fewer samples than features it is far from 0 for
    layers that have nothing in common; `LinearCKA` is not.

    Args:
        first: (N, *F).
        second: of the same samples, (N, *F'), any width.

    Returns:
        In [0, 1]; 0 if a layer is the same for all samples.

    Raises:
        ValueError: as `LayerMeasure.update`.
    """
    x, y = (_centred(rows) for rows in rows_by_name({"first": first, "second": second}).values())
    y = y.to(x.device)
    if len(x) < min(x.shape[1], y.shape[1]):
        k, m = x @ x.T, y @ y.T
        products = (k * m).sum(), k.norm() * m.norm()
    else:
        products = (y.T @ x).square().sum(), (x.T @ x).norm() * (y.T @ y).norm()
    shared, scale = torch.stack(products).tolist()
    return shared / scale if scale else 0.0


def unbiased_hsic(first: Tensor, second: Tensor) -> Tensor:
    """The unbiased estimate of HSIC of each Gram matrix of one list with each of another.

    HSIC₁(K, M) = [tr(K̃M̃) + 1ᵀK̃1 1ᵀM̃1 / ((n-1)(n-2)) - 2 1ᵀK̃M̃1 / (n-2)] / (n(n-3)), K̃ and M̃ without their diagonals.
    Computed as ⟨Ã, B̃⟩ / (n(n-3)) of the U-centred matrices, which is the same and loses no digits to the mean.
    Source: Song et al. 2012 (JMLR 13), eq. 4, as Nguyen et al. 2021 (arXiv 2010.15327), eq. 3; U-centring: Szekely and
    Rizzo 2014, Definition 2.

    Args:
        first: (L, n, n), symmetric.
        second: (L', n, n).

    Returns:
        (L, L').

    Raises:
        ValueError: n is less than 4.
    """
    n = first.shape[-1]
    if n < _FEWEST:
        raise ValueError(
            f"unbiased HSIC needs at least {_FEWEST} samples in each minibatch, got {n}. Take larger minibatches, and "
            "leave out a last one that is too short."
        )
    a = _u_centred(first)
    b = a if second is first else _u_centred(second)
    return a.flatten(1) @ b.flatten(1).T / (n * (n - 3))


class LinearCKA:
    """Linear CKA of each layer with each, over minibatches: mean HSIC₁(K, M) / √(mean HSIC₁(K, K) mean HSIC₁(M, M)).

    The means are over minibatches, weighted by their samples. Each is unbiased, so a minibatch of all samples and many
    small ones estimate the same: with one minibatch of everything this is the unbiased CKA of everything, exactly.
    Source: Nguyen et al. 2021 (arXiv 2010.15327), eq. 2-4. Differs: minibatches may differ in size.

    In [-1, 1]; about 0 for layers that have nothing in common, and 0 with a layer that is the same for all samples.
    Between two networks, both on the same samples: `update(features, against=features_of_the_other)`.
    A minibatch takes 8 n² bytes for each layer, whatever its width.
    """

    def __init__(self) -> None:
        self._sides = Sides()
        self._sums = torch.zeros(0, 0, dtype=torch.float64)
        self._count = 0

    def update(
        self,
        features: Mapping[str, Tensor],
        target: Tensor | None = None,
        *,
        against: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Take in a minibatch.

        Args:
            features: by layer, (n, *F) each; n at least 4.
            target: not looked at.
            against: those of another network for the same samples; at every update or never.

        Raises:
            ValueError: as `LayerMeasure.update`; or n is less than 4.
        """
        mine, theirs = self._sides.take(features, against)
        grams = _grams([*mine, *theirs])
        found = unbiased_hsic(grams, grams)
        if not self._count:
            self._sums = torch.zeros_like(found)
        self._sums = self._sums.to(found.device) + len(mine[0]) * found
        self._count += len(mine[0])

    def result(self) -> Comparison:
        """CKA of each pair of layers; rows are of `features`, columns of `against`, if that was given."""
        check_nonempty(self._count, self)
        scale = self._sums.diagonal().clamp_min(0.0).sqrt()
        product = torch.outer(scale, scale)
        values = torch.where(product > 0, self._sums / product, torch.zeros_like(product))
        return self._sides.compare(values.clamp(-1.0, 1.0))

    def state_dict(self) -> dict[str, Any]:
        """Names, sums and samples."""
        return {"sides": self._sides.state_dict(), "sums": self._sums, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._sides.load_state_dict(state["sides"])
        self._sums, self._count = state["sums"], int(state["count"])


def _centred(rows: Tensor) -> Tensor:
    """Without the mean over samples; exactly 0 for features that do not vary."""
    shifted = rows - rows[:1]
    return shifted - shifted.mean(0)


def _grams(layers: Sequence[Tensor]) -> Tensor:
    """(L, n, n), on the device of the first. HSIC does not see the mean of features; without it no digit is lost."""
    centred = [_centred(rows) for rows in layers]
    return torch.stack([(rows @ rows.T).to(layers[0].device) for rows in centred])


def _u_centred(grams: Tensor) -> Tensor:
    n = grams.shape[-1]
    off = grams - torch.diag_embed(grams.diagonal(dim1=-2, dim2=-1))
    sums = off.sum(-1)
    total = sums.sum(-1)[:, None, None] / ((n - 1) * (n - 2))
    centred = off - (sums[:, :, None] + sums[:, None, :]) / (n - 2) + total
    return centred - torch.diag_embed(centred.diagonal(dim1=-2, dim2=-1))
