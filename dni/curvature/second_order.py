"""How is the step that an optimiser proposes scaled, subset by subset, by the loss's curvature along it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from dni.curvature.partition import ParameterPartition
from dni.curvature.rate_memory import CurvatureSettings, RateMemory
from dni.curvature.summaries import Summary

__all__ = ["CurvatureRates", "Summarise"]

Summarise: TypeAlias = Callable[[Mapping[str, Tensor]], Summary]
"""A direction by name -> the loss along it, at the parameters as they are. Called only when new rates are due."""


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
        self._num_steps = 0
        self._memory = RateMemory(partition.names, self.settings)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the optimiser within."""
        return self.inner.param_groups

    @property
    def rates(self) -> Tensor:
        """What scales the next step: bounded, and with the factor, (S,)."""
        return self._memory.rates

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As an optimiser's."""
        self.inner.zero_grad(set_to_none)

    def statistics(self) -> dict[str, float]:
        """Steps taken, summaries made, and how many of those gave no rates."""
        return {
            "num_steps": self._num_steps,
            "num_summaries": self._memory.num_summaries,
            "num_unsolved": self._memory.num_unsolved,
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
            self._memory.learn(summary, still=self.partition.still(direction))
        self._num_steps += 1
        for name, rate in self.partition.spread(self.rates).items():
            own = self._parameters[name]
            own.sub_(rate.to(own) * direction[name])

    def state_dict(self) -> dict[str, Any]:
        """All that a later step depends on, in tensors and plain values."""
        return {**self._memory.state_dict(), "inner": self.inner.state_dict(), "num_steps": self._num_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: it is of other subsets.
        """
        if tuple(state["names"]) != self.partition.names:
            raise ValueError(
                f"the state must be of the {self.partition.num_subsets} subsets {', '.join(self.partition.names)}, got "
                f"{', '.join(state['names'])}. Load it with the partition it was saved with."
            )
        self.inner.load_state_dict(state["inner"])
        self._memory.load_state_dict(state)
        self._num_steps = state["num_steps"]
