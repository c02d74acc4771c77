"""How many units of a layer are all but silent?

Letters: U units of a layer, E|h_i| the mean of |h_i| over samples and positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dni.measures.layer_measure import check_nonempty, check_same_names, rows_by_name
from dni.pruning.importance import RunningScores, score_dormancy, score_unit_activity

__all__ = ["Dormancy", "DormantUnits"]


@dataclass(frozen=True, kw_only=True)
class Dormancy:
    """How silent the units of one layer are."""

    scores: Tensor
    """E|h_i| / mean over k of E|h_k|, (U,), float64; all 0 for a layer that is silent as a whole."""
    shares: dict[float, float]
    """By τ: the share of units of a score of at most τ."""


class DormantUnits:
    """The share of τ-dormant units of each layer: those with E|h_i| / mean over k of E|h_k| <= τ.

    Source: Sokar et al. 2023 (ReDo, arXiv 2302.12902), Definitions 3.1 and 3.2. Features are to be taken after the
    nonlinearity.

    Args:
        taus: thresholds, each at least 0; the paper shows 0 to 0.1.
        num_units: U by layer, for units of several channels (heads); the others have one to a channel.
        axes: of the channels by layer; 1 for the others. Tokens (N, T, C) have -1.

    Raises:
        ValueError: there is no threshold, or a negative one.
    """

    def __init__(
        self,
        *,
        taus: Sequence[float] = (0.0, 0.025, 0.1),
        num_units: Mapping[str, int] | None = None,
        axes: Mapping[str, int] | None = None,
    ) -> None:
        if not taus or min(taus) < 0:
            raise ValueError(f"taus must be at least one number, each at least 0, got {tuple(taus)}.")
        self._taus = tuple(taus)
        self._num_units, self._axes = dict(num_units or {}), dict(axes or {})
        self._scores = RunningScores()

    def update(self, features: Mapping[str, Tensor], target: Tensor | None = None) -> None:
        """Take in a minibatch; `target` is not looked at.

        Raises:
            ValueError: as `LayerMeasure.update`; or units do not divide the channels, or have changed in number.
        """
        rows_by_name(features)
        if known := self._scores.totals():
            check_same_names(features, known)
        activities = {name: self._activity(name, h) for name, h in features.items()}
        self._scores.add(activities, num_samples=len(next(iter(features.values()))))

    def result(self) -> dict[str, Dormancy]:
        """By layer."""
        means = self._scores.means()
        check_nonempty(len(means), self)
        found = {}
        for name, mean in means.items():
            scores = score_dormancy(mean)
            shares = {tau: float((scores <= tau).double().mean()) for tau in self._taus}
            found[name] = Dormancy(scores=scores, shares=shares)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Sums and samples by layer."""
        return self._scores.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._scores.load_state_dict(state)

    def _activity(self, name: str, h: Tensor) -> Tensor:
        axis = self._axes.get(name, 1)
        num_units = self._num_units.get(name, h.shape[axis])
        return score_unit_activity(h.to(torch.float64), num_units=num_units, axis=axis)
