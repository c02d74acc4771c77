"""What can be done about gradients that come late, without keeping the weights they belong to?

A gradient is *stale* by the updates that its stage makes between forward and backward. A rule says, in numbers, what to
do about it; a `Corrector` does it to the weights of one stage. All rules look at one thing, the *velocity*: a running
mean of what an update has changed,

    v' = d v + (1 - d) (w' - w)        d: the rule's decay

so they work with any optimiser, whose momentum, preconditioning, learning rate and weight decay are all in w' - w. A
rule may forward with weights extrapolated along v, pull gradients back with weights extrapolated against it, lower the
learning rate, and let the weights move by v itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Correction", "Corrector", "DiscrepancyCorrection", "NesterovLookahead", "WeightPrediction"]


@runtime_checkable
class Correction(Protocol):
    """A rule against staleness. `staleness` is a stage's intended one, in updates; a stage with none is left alone."""

    @property
    def coasts(self) -> bool:
        """Whether the weights move by the velocity instead of by what the optimiser says."""

    def decay(self, staleness: float) -> float:
        """The share of the velocity that is kept at an update, in [0, 1)."""

    def ahead(self, num_updates: int, *, staleness: float) -> float:
        """How many velocities to add to the weights of a forward that `num_updates` will have outdated."""

    def behind(self, num_updates: int, *, staleness: float) -> float:
        """How many velocities to take off the weights of a backward whose forward was `num_updates` ago."""

    def rate(self, step: int, *, staleness: float) -> float:
        """Factor of the learning rate at a step."""


@dataclass(frozen=True, kw_only=True)
class WeightPrediction:
    """Forward with the weights that will be there when the gradient comes.

    w_hat = w + s v, for s updates still to come.    Source: Chen et al. 2018 (SpecTrain, arXiv 1809.02839), weight
    prediction with the smoothed gradient; with momentum 0 the weight form of linear weight prediction of Kosson et al.
    2021 (arXiv 2003.11666). Differs: v is the mean of weight changes, not of gradients, so it holds for every optimiser
    (as PipeOptim, arXiv 2312.00839, has it); s is counted from what is in flight, not from the place in the pipeline;
    backwards use the weights the stash says, and stash recompute or graph those that were predicted.
    """

    momentum: float = 0.9
    """Share of the velocity kept at an update. 0: the last change alone, which an optimiser with momentum has smoothed
    already."""

    def __post_init__(self) -> None:
        _check_share("momentum", self.momentum)

    @property
    def coasts(self) -> bool:
        return False

    def decay(self, staleness: float) -> float:
        return self.momentum

    def ahead(self, num_updates: int, *, staleness: float) -> float:
        return float(num_updates)

    def behind(self, num_updates: int, *, staleness: float) -> float:
        return 0.0

    def rate(self, step: int, *, staleness: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class DiscrepancyCorrection:
    """Pull a late gradient back with an estimate of the weights of its forward, and begin with a lower rate.

    T2: w_back = w - s v, for s updates since the forward, v with the decay D^(1 / staleness).
    T1: the rate is divided by staleness^p, p falling from 1 to 0 in the first `anneal` steps.
    Source: Yang et al. 2021 (PipeMare, arXiv 1910.05124), techniques T1 and T2. Differs: s is the measured staleness of
    the microbatch, D^(1 / staleness) that of the stage; a staleness below 1 does not raise the rate. With the
    forward's own weights at hand (stash weights) T2 has nothing to estimate, and T1 remains.
    """

    discount: float = 0.135
    """D: what is left of a change in the velocity after one staleness' worth of updates; the default is exp(-2)."""
    anneal: int = 0
    """Steps in which the rate rises to the whole one; 0: it is whole from the start (T2 alone)."""

    def __post_init__(self) -> None:
        _check_share("discount", self.discount)
        if self.anneal < 0:
            raise ValueError(f"anneal counts steps and cannot be negative, got {self.anneal}. Use 0 for T2 alone.")

    @property
    def coasts(self) -> bool:
        return False

    def decay(self, staleness: float) -> float:
        return float(self.discount ** (1.0 / max(1.0, staleness)))

    def ahead(self, num_updates: int, *, staleness: float) -> float:
        return 0.0

    def behind(self, num_updates: int, *, staleness: float) -> float:
        return float(num_updates)

    def rate(self, step: int, *, staleness: float) -> float:
        if step >= self.anneal:
            return 1.0
        return float(max(1.0, staleness) ** (step / self.anneal - 1.0))


@dataclass(frozen=True, kw_only=True)
class NesterovLookahead:
    """Nesterov's momentum, whose look-ahead point makes up for the delay of the gradient taken there.

    The gradient is taken at w + m v, and the weights move by v' = m v + (1 - m) u, where u is the optimiser's own
    step. Use it with an optimiser without momentum (SGD; Adam with betas (0, ...)).    Source: Ajanthan et al. 2025
    (arXiv 2505.01099), d = m (w' - w), w'' = w' + d - (1 - m) rate gradient(w' + d). Differs: u may be any optimiser's
    step; m grows with the stage's staleness from 0, not from the optimiser's own momentum; evaluations use w.
    """

    momentum: float = 0.99
    """m at the staleness `over` and above."""
    over: float = 1.0
    """Staleness, in updates, up to which m grows in proportion to it; by default every stale stage has the whole m."""

    def __post_init__(self) -> None:
        _check_share("momentum", self.momentum)
        if not self.over > 0:
            raise ValueError(f"over is a staleness in updates and must be positive, got {self.over}.")

    @property
    def coasts(self) -> bool:
        return True

    def decay(self, staleness: float) -> float:
        return self.momentum * min(1.0, staleness / self.over)

    def ahead(self, num_updates: int, *, staleness: float) -> float:
        return self.decay(staleness)

    def behind(self, num_updates: int, *, staleness: float) -> float:
        return 0.0

    def rate(self, step: int, *, staleness: float) -> float:
        return 1.0


class Corrector:
    """A rule at work on the weights of one stage.

    Args:
        rule: what is to be done.
        parameters: the stage's parameters by name; those that learn are corrected.
        staleness: the stage's intended one, in updates.
    """

    def __init__(self, rule: Correction, parameters: Iterable[tuple[str, Tensor]], *, staleness: float) -> None:
        self.rule = rule
        self.staleness = staleness
        self._parameters = {name: parameter for name, parameter in parameters if parameter.requires_grad}
        self._velocity: dict[str, Tensor] = {}
        """Empty before the first update."""

    def weights_ahead(self, num_updates: int) -> dict[str, Tensor] | None:
        """Weights to forward with, by name, leaves of their own; None: those of today."""
        return self._extrapolated(self.rule.ahead(num_updates, staleness=self.staleness))

    def weights_behind(self, num_updates: int) -> dict[str, Tensor] | None:
        """Weights to pull a gradient back with, by name, leaves of their own; None: those of today."""
        return self._extrapolated(-self.rule.behind(num_updates, staleness=self.staleness))

    def before_update(self) -> dict[str, Tensor]:
        """The weights as they are, to be handed to `after_update`."""
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def after_update(self, before: Mapping[str, Tensor]) -> None:
        """Take note of what an update has changed; a rule that coasts changes it."""
        decay = self.rule.decay(self.staleness)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                velocity = self._velocity.get(name)
                if velocity is None:
                    velocity = self._velocity[name] = torch.zeros_like(parameter)
                velocity.mul_(decay).add_(parameter - before[name], alpha=1.0 - decay)
                if self.rule.coasts:
                    torch.add(before[name], velocity, out=parameter)

    def state_dict(self) -> dict[str, Tensor]:
        """The velocity by parameter name."""
        return dict(self._velocity)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        self._velocity = {name: value.clone() for name, value in state.items()}

    def _extrapolated(self, factor: float) -> dict[str, Tensor] | None:
        if factor == 0.0 or not self._velocity:
            return None
        return {
            name: torch.add(parameter.detach(), self._velocity[name], alpha=factor).requires_grad_()
            for name, parameter in self._parameters.items()
        }


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} is a share and must lie in [0, 1), got {value}.")
