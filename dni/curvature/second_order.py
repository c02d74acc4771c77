"""How is the step that an optimiser proposes scaled, subset by subset, by the loss's curvature along it?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from dni.curvature.cubic import NoRatesError
from dni.curvature.partition import ParameterPartition
from dni.curvature.rates import cubic_rates
from dni.curvature.summaries import Summary

__all__ = ["CurvatureRates", "CurvatureSettings", "Summarise"]

Summarise: TypeAlias = Callable[[Mapping[str, Tensor]], Summary]
"""A direction by name -> the loss along it, at the parameters as they are. Called only when new rates are due."""


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


class CurvatureRates:
    """An optimiser whose steps are scaled by one rate per subset: theta - factor eta_s u_s.

    u is what the optimiser within would have subtracted, with its momentum, its weight decay and its learning rate (of
    which the step does not depend; take one that moves the parameters well above rounding, as 1.0 for SGD).

        own = dict(model.named_parameters())
        optimizer = CurvatureRates(SGD(own.values(), lr=1.0, momentum=0.9), own, partition)
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step(lambda u: summarise(loss_parts(model, loss, x, y), own, u, partition))

    Source: Wolinski 2023 (arXiv 2312.03885), its optimiser; p-wol/GroupedNewton for averages and bounds. Differs: where
    rates cannot be found (a model without a minimum, a singular Hessian) the old ones stay, and the first ones are 0.

    Raises:
        ValueError: the parameters are not those of the partition, or not all of the optimiser's.
    """

    def __init__(
        self,
        inner: Optimizer,
        parameters: Mapping[str, Tensor],
        partition: ParameterPartition,
        settings: CurvatureSettings | None = None,
    ) -> None:
        partition.check("the optimiser", parameters)
        held = {id(own) for group in inner.param_groups for own in group["params"]}
        named = {id(own): name for name, own in parameters.items()}
        if held != named.keys():
            missed = ", ".join(name for own, name in named.items() if own not in held) or "none"
            raise ValueError(
                f"the optimiser within must have the parameters of the partition: it lacks {missed}, and has "
                f"{len(held - named.keys())} beyond them. Give both the same."
            )
        self.inner = inner
        self.partition = partition
        self.settings = settings or CurvatureSettings()
        self._parameters = dict(parameters)
        self._num_steps = self._num_summaries = self._num_unsolved = 0
        self._summary: Summary | None = None
        self._rates = torch.zeros(partition.num_subsets, dtype=torch.float64)
        self._has_rates = torch.zeros(partition.num_subsets, dtype=torch.bool)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the optimiser within."""
        return self.inner.param_groups

    @property
    def rates(self) -> Tensor:
        """What scales the next step: bounded, and with the factor, (S,)."""
        return self.settings.factor * self._rates.clamp(self.settings.floor, self.settings.ceiling)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As an optimiser's."""
        self.inner.zero_grad(set_to_none)

    def statistics(self) -> dict[str, float]:
        """Steps taken, summaries made, and how many of those gave no rates."""
        return {
            "num_steps": self._num_steps,
            "num_summaries": self._num_summaries,
            "num_unsolved": self._num_unsolved,
        }

    @torch.no_grad()
    def step(self, summarise: Summarise) -> None:
        """One step along what the optimiser within makes of the gradients in `.grad`.

        Args:
            summarise: gives the loss along a direction; at every `period`th step, from the first on, it is called with
                the parameters as they were before the step.

        Raises:
            ValueError: as `summarise`. The parameters are then as before, and the optimiser within has stepped.
        """
        before = {name: own.clone() for name, own in self._parameters.items()}
        self.inner.step()
        direction = {name: before[name] - own for name, own in self._parameters.items()}
        for name, own in self._parameters.items():
            own.copy_(before[name])
        if self._num_steps % self.settings.period == 0:
            with torch.enable_grad():
                summary = summarise(direction)
            self._learn(summary, still=self.partition.still(direction))
        self._num_steps += 1
        for name, rate in self.partition.spread(self.rates).items():
            own = self._parameters[name]
            own.sub_(rate.to(own) * direction[name])

    def _learn(self, new: Summary, *, still: list[int]) -> None:
        """Rates of the subsets that move. One that stands still keeps its own."""
        settings = self.settings
        self._num_summaries += 1
        self._summary = new if self._summary is None else new.mixed(self._summary, settings.summary_memory)
        moving = [index for index in range(len(new.names)) if index not in still]
        if not moving:
            return
        try:
            found = settings.rule(self._summary.of(moving))
        except NoRatesError:  # of this step's curvature; the old rates go on
            self._num_unsolved += 1
            return
        at = torch.tensor(moving)
        old = torch.where(self._has_rates[at], self._rates[at], found)
        self._rates[at] = torch.lerp(found, old, settings.rate_memory)
        self._has_rates[at] = True

    def state_dict(self) -> dict[str, Any]:
        """All that a later step depends on, in tensors and plain values."""
        summary = self._summary
        return {
            "inner": self.inner.state_dict(),
            "rates": self._rates.clone(),
            "has_rates": self._has_rates.clone(),
            "num_steps": self._num_steps,
            "num_summaries": self._num_summaries,
            "num_unsolved": self._num_unsolved,
            "summary": None if summary is None else (summary.gradient, summary.hessian, summary.third),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: it is of another number of subsets.
        """
        if len(state["rates"]) != self.partition.num_subsets:
            raise ValueError(
                f"the state must be of {self.partition.num_subsets} subsets, got {len(state['rates'])}. Load it with "
                "the partition it was saved with."
            )
        self.inner.load_state_dict(state["inner"])
        self._rates, self._has_rates = state["rates"].clone(), state["has_rates"].clone()
        self._num_steps, self._num_summaries = state["num_steps"], state["num_summaries"]
        self._num_unsolved = state["num_unsolved"]
        self._summary = None
        if state["summary"] is not None:
            g, h, d = state["summary"]
            self._summary = Summary(names=self.partition.names, gradient=g, hessian=h, third=d)
