"""Which unit has been of least use for long enough to be replaced?

Letters: U units of a layer, h_i the output of unit i, a_i its age in updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dni.pruning.selection import lowest
from dni.resets.resets import UnitReset

__all__ = ["ContinualBackprop", "UnitUtility"]


@dataclass(frozen=True, kw_only=True)
class ContinualBackprop:
    """At each update, replace a tiny share of the mature units that are of least use.

        u_i ← η u_i + (1 - η) E|h_i| Σ|w_out,i|        û_i = u_i / (1 - η^a_i)

    A unit is mature from a_i > m on. A share ρ of the mature ones is due at every update; the parts of units add up,
    and as many whole units as there are go, those of the lowest û first.    Source: Dohare et al. 2024 (Nature,
    continual backpropagation), algorithm 1, and its code; ρ 1e-4 to 1e-6 with m 100 (permuted MNIST, SGD 0.003), 3e-4
    with 100 (binary ImageNet), 1e-5 with 1,000 (incremental CIFAR-100). Differs: the code has the mean over w_out,
    which is the sum for units of one layer up to a factor, and adds nothing to the bias of readers (nor does the code,
    in effect).
    """

    decay: float = 0.99
    """η, in [0, 1)."""
    maturity: int = 100
    """m, in updates."""
    replacement_rate: float = 1e-4
    """Of the mature units, at each update; in [0, 1]."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"the share of the utility that is kept must lie in [0, 1), got {self.decay}.")
        if self.maturity < 0:
            raise ValueError(f"the age of maturity must be at least 0 updates, got {self.maturity}.")
        if not 0.0 <= self.replacement_rate <= 1.0:
            raise ValueError(f"the share that is replaced must lie in [0, 1], got {self.replacement_rate}.")


class UnitUtility:
    """The running utility of each unit, by layer. An update is: `observe`, `plan`, apply the plan, `replaced_`."""

    def __init__(self, rule: ContinualBackprop) -> None:
        self.rule = rule
        self._utility: dict[str, Tensor] = {}
        self._age: dict[str, Tensor] = {}
        self._due: dict[str, float] = {}

    def observe(self, layer: str, activity: Tensor, outgoing: Tensor) -> None:
        """Count one update.

        Args:
            layer: whose units.
            activity: E|h| over the samples of the update, (U,): a mean of `score_unit_activity`.
            outgoing: Σ|w_out|, (U,): `outgoing_norm`.

        Raises:
            ValueError: the shapes differ, or have changed.
        """
        utility = self._utility.get(layer, torch.zeros_like(activity))
        if not activity.shape == outgoing.shape == utility.shape:
            raise ValueError(
                f"activity and outgoing weights of {layer} must have one number for each of its units, as before, "
                f"{tuple(utility.shape)}, got {tuple(activity.shape)} and {tuple(outgoing.shape)}."
            )
        age = self._age.get(layer, torch.zeros_like(activity, dtype=torch.int64)) + 1
        self._utility[layer] = self.rule.decay * utility + (1 - self.rule.decay) * activity * outgoing
        self._age[layer] = age
        mature = int((age > self.rule.maturity).sum())
        self._due[layer] = self._due.get(layer, 0.0) + self.rule.replacement_rate * mature

    def utilities(self) -> dict[str, Tensor]:
        """û by layer: a mean over a unit's own life."""
        return {
            layer: utility / (1 - self.rule.decay ** self._age[layer].clamp_min(1).to(utility.dtype))
            for layer, utility in self._utility.items()
        }

    def plan(self) -> UnitReset:
        """The units that are due now, by layer; changes nothing."""
        units = {}
        for layer, utility in self.utilities().items():
            mature = (self._age[layer] > self.rule.maturity).nonzero().flatten()
            # Ten times 0.1 is less than 1 in binary.
            count = min(int(self._due[layer] + 1e-9), len(mature))
            units[layer] = tuple(mature[lowest(utility[mature], count)].tolist())
        return UnitReset(rule=repr(self.rule), units=units)

    def replaced_(self, plan: UnitReset) -> None:
        """The units of a plan have been replaced: they have no use and no age yet."""
        for layer, units in plan.units.items():
            chosen = list(units)
            self._utility[layer][chosen] = 0.0
            self._age[layer][chosen] = 0
            self._due[layer] -= len(chosen)

    def state_dict(self) -> dict[str, Any]:
        """Utilities, ages and parts of units that are due, by layer."""
        return {
            "utility": {layer: value.clone() for layer, value in self._utility.items()},
            "age": {layer: value.clone() for layer, value in self._age.items()},
            "due": dict(self._due),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._utility = {layer: value.clone() for layer, value in state["utility"].items()}
        self._age = {layer: value.clone() for layer, value in state["age"].items()}
        self._due = dict(state["due"])
