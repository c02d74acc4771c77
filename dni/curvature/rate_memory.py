"""Which rates do summaries come to over time?"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dni.curvature.cubic import NoRatesError
from dni.curvature.rates import cubic_rates
from dni.curvature.summaries import Summary

__all__ = ["CurvatureSettings", "RateMemory"]


@dataclass(frozen=True, kw_only=True)
class CurvatureSettings:
    """When rates are found anew, from what, and within which bounds they are used."""

    rule: Callable[[Summary], Tensor] = cubic_rates
    """Summary -> rates, (S,), as `partial(cubic_rates, strength=10.0)`."""
    period: int = 10
    """Steps from one summary to the next."""
    factor: float = 0.3
    """Of all rates; the paper's "damping", lambda_1."""
    summary_memory: float = 0.0
    """Share, in [0, 1), of the old average in that of the summaries."""
    rate_memory: float = 0.5
    """Share, in [0, 1), of the old average in that of the rates, before they are bounded."""
    floor: float = 0.0
    """Least rate used. At 0 no subset goes against what its optimiser proposes."""
    ceiling: float = math.inf
    """Greatest rate used."""

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ValueError(f"the period must be at least one step, got {self.period}.")
        if not self.factor > 0:
            raise ValueError(f"the factor of the rates must be above 0, got {self.factor}.")
        for what, share in (("summary_memory", self.summary_memory), ("rate_memory", self.rate_memory)):
            if not 0 <= share < 1:
                raise ValueError(f"{what} is the share of the old average, in [0, 1), got {share}.")
        if not self.floor <= self.ceiling:
            raise ValueError(f"the floor of the rates must not be above the ceiling, got {self.floor}, {self.ceiling}.")


class RateMemory:
    """The rates of some subsets: averaged over summaries, bounded when they are used.

    Args:
        names: of the S subsets.
        settings: of the averages and the bounds.
    """

    def __init__(self, names: Sequence[str], settings: CurvatureSettings) -> None:
        self.names = tuple(names)
        self.num_summaries = 0
        self.num_unsolved = 0
        """How many of those gave no rates."""
        self._settings = settings
        self._summary: Summary | None = None
        self._rates = torch.zeros(len(self.names), dtype=torch.float64)
        self._has_rates = torch.zeros(len(self.names), dtype=torch.bool)

    @property
    def rates(self) -> Tensor:
        """What scales a step: bounded, and with the factor, (S,); 0 where no summary has given a rate yet."""
        bounded = self._settings.factor * self._rates.clamp(self._settings.floor, self._settings.ceiling)
        return torch.where(self._has_rates, bounded, 0.0)

    @property
    def lent_rates(self) -> Tensor:
        """As `rates`, but where there is none yet the mean of the others'; of all, 1: steps are as proposed."""
        rates, has = self.rates, self._has_rates
        return torch.where(has, rates, rates[has].mean() if bool(has.any()) else 1.0)

    @property
    def num_lent(self) -> int:
        """Subsets without a rate of their own."""
        return int((~self._has_rates).sum())

    def learn(self, new: Summary, *, still: Collection[int]) -> Tensor:
        """Take in a summary.

        Subsets that stand still, or along which the loss is flat to third order, keep what they have. So do all where
        the rule finds nothing: it is this moment's curvature that has no rates.

        Args:
            new: of all subsets.
            still: those whose direction is zero.

        Returns:
            The rates that the rule found, (S,); NaN where it found none.
        """
        settings = self._settings
        self.num_summaries += 1
        self._summary = new if self._summary is None else new.mixed(self._summary, settings.summary_memory)
        at = torch.tensor([index for index in range(len(self.names)) if index not in still], dtype=torch.long)
        at = at[~self._summary.of(at.tolist()).flat]
        found = torch.full_like(self._rates, math.nan)
        if not len(at):
            return found
        try:
            found[at] = settings.rule(self._summary.of(at.tolist()))
        except NoRatesError:
            self.num_unsolved += 1
            return found
        old = torch.where(self._has_rates[at], self._rates[at], found[at])
        self._rates[at] = torch.lerp(found[at], old, settings.rate_memory)
        self._has_rates[at] = True
        return found

    def miss(self) -> None:
        """There was to be a summary, and the loss had no derivatives."""
        self.num_summaries += 1
        self.num_unsolved += 1

    def state_dict(self) -> dict[str, Any]:
        """All that later rates depend on, in tensors and plain values."""
        summary = self._summary
        return {
            "names": list(self.names),
            "rates": self._rates.clone(),
            "has_rates": self._has_rates.clone(),
            "num_summaries": self.num_summaries,
            "num_unsolved": self.num_unsolved,
            "summary": None if summary is None else [summary.gradient, summary.hessian, summary.third],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Rates go by the names of subsets; the average of summaries begins anew with others."""
        places = {name: place for place, name in enumerate(state["names"])}
        for index, name in enumerate(self.names):
            if (place := places.get(name)) is not None:
                self._rates[index], self._has_rates[index] = state["rates"][place], state["has_rates"][place]
        self.num_summaries, self.num_unsolved = state["num_summaries"], state["num_unsolved"]
        self._summary = None
        if state["summary"] is not None and tuple(state["names"]) == self.names:
            g, h, d = (order.cpu() for order in state["summary"])
            self._summary = Summary(names=self.names, gradient=g, hessian=h, third=d)
