"""Do layers find the same samples alike, and is that about their classes? Minibatch by minibatch.

Only samples of one minibatch are compared, so minibatches had better be as large as can be, and alike in size. With one
minibatch of everything these are `compare_dissimilarities` and `class_contrast` of it, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dni.measures.comparison import Comparison, Sides
from dni.measures.layer_measure import check_nonempty, check_same_names, rows_by_name
from dni.measures.moments import Moments
from dni.measures.representations import dissimilarity

__all__ = ["RSA", "ClassContrast"]


class RSA:
    """The correlation of the dissimilarities of each two layers, over all pairs of samples that met in a minibatch.

    Source: Kriegeskorte et al. 2008, as `dni.compare_dissimilarities`. Differs: pairs within minibatches only.
    Between two networks, both on the same samples: `update(features, against=features_of_the_other)`.
    """

    def __init__(self) -> None:
        self._sides = Sides()
        self._moments = Moments()

    def update(
        self,
        features: Mapping[str, Tensor],
        target: Tensor | None = None,
        *,
        against: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Take in a minibatch.

        Args:
            features: by layer, (n, *F) each; n at least 2.
            target: not looked at.
            against: those of another network for the same samples; at every update or never.

        Raises:
            ValueError: as `LayerMeasure.update`; or there is a single sample.
        """
        mine, theirs = self._sides.take(features, against)
        _check_pairs(len(mine[0]))
        above = torch.triu_indices(len(mine[0]), len(mine[0]), offset=1)
        device = mine[0].device
        self._moments.add(
            torch.stack([dissimilarity(h)[above[0], above[1]].to(device) for h in (*mine, *theirs)], dim=1)
        )

    def result(self) -> Comparison:
        """In [-1, 1]; 0 with a layer that finds all pairs equally different."""
        check_nonempty(self._moments.count, self)
        return self._sides.compare(self._moments.correlation())

    def state_dict(self) -> dict[str, Any]:
        """Names and moments."""
        return {"sides": self._sides.state_dict(), "moments": self._moments.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._sides.load_state_dict(state["sides"])
        self._moments.load_state_dict(state["moments"])


class ClassContrast:
    """Mean dissimilarity of two samples of different classes minus that of two of the same, by layer.

    Over all pairs that met in a minibatch; as `dni.class_contrast`.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._pairs = torch.zeros(2, dtype=torch.int64)

    def update(self, features: Mapping[str, Tensor], target: Tensor | None = None) -> None:
        """Take in a minibatch and its labels, (n,).

        Raises:
            ValueError: as `LayerMeasure.update`; or there is a single sample, or no label for each.
        """
        rows = rows_by_name(features)
        count = len(next(iter(rows.values())))
        if self._sums:
            check_same_names(rows, self._sums)
        _check_pairs(count)
        if target is None or target.shape != (count,):
            got = "none" if target is None else tuple(target.shape)
            raise ValueError(f"ClassContrast needs a label for each of {count} samples, ({count},), got {got}.")
        same = (target[:, None] == target[None, :]).cpu()
        above = torch.ones(count, count, dtype=torch.bool).triu(1)
        kinds = torch.stack([same & above, ~same & above])
        for name, h in rows.items():
            found = (dissimilarity(h) * kinds.to(h.device)).sum((1, 2))
            self._sums[name] = found + self._sums.get(name, torch.zeros_like(found)).to(h.device)
        self._pairs = self._pairs + kinds.sum((1, 2))

    def result(self) -> dict[str, float]:
        """By layer.

        Raises:
            ValueError: nothing was seen, or no two samples of the same class, or of different ones.
        """
        check_nonempty(len(self._sums), self)
        within, between = self._pairs.tolist()
        if not within or not between:
            raise ValueError(
                f"a contrast needs pairs of the same class and of different ones, got {within} and {between} within "
                "minibatches. Take larger minibatches."
            )
        return {name: float(found[1]) / between - float(found[0]) / within for name, found in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Sums and pairs."""
        return {"sums": dict(self._sums), "pairs": self._pairs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._sums, self._pairs = dict(state["sums"]), state["pairs"]


def _check_pairs(count: int) -> None:
    if count < 2:
        raise ValueError(
            f"dissimilarity is of two samples, so a minibatch must have at least 2, got {count}. Take larger ones."
        )
