"""Which source knows the loss and not its gradient? A critic: it predicts the loss of a sample from h and the label.

Letters: N samples, K numbers that stand for a label.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni.members import Members, num_samples
from dni.schedules.schedule import CONSTANT, Schedule
from dni.sources.context import LabelContext, any_labels
from dni.sources.heads import gradient_at
from dni.sources.regression import ADAM, OptimizerFactory, Regression
from dni.sources.source import Need, Signal, gradient_of, loss_of, target_of
from dni.sources.unit_changes import AxisChanges, UnitFollower, first_reads, refusal, within
from dni.structure.layout import flattened
from dni.structure.origin import Origin

__all__ = ["Critic", "CriticNetwork", "SobolevCritic", "ValueMLP"]

CriticNetwork: TypeAlias = nn.Module | Callable[[Tensor, int], nn.Module]
"""A module of the user's own (copied for each member of h), or a function (h, K) -> module, such as `ValueMLP`. The
module is called as module(h, context) with a context of (N, K), and returns the loss of each sample, (N,) or (N, 1)."""


@dataclass(frozen=True)
class ValueMLP:
    """Hidden layers of Linear and SiLU on the flattened h beside the label; the last, to one number, starts at zero.

    The activation is smooth: of a critic made of ReLUs the gradient is constant between kinks, and it is the gradient
    that is used.
    """

    hidden: tuple[int, ...] = (256,)
    """Width of each hidden layer, at least one of them: the gradient of a linear critic is the same for all h."""

    def __post_init__(self) -> None:
        if not self.hidden or any(size < 1 for size in self.hidden):
            raise ValueError(f"a critic's hidden must be widths of at least 1, and at least one, got {self.hidden}.")

    def __call__(self, h: Tensor, num_context: int) -> nn.Module:
        widths = (math.prod(h.shape[1:]) + num_context, *self.hidden)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.SiLU()]
        last = nn.Linear(widths[-1], 1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        return _OnFlattened(nn.Sequential(*layers, last))


_VALUE_MLP = ValueMLP()


class Critic(nn.Module):
    """Take the gradient of a predicted loss: V(h, y), fitted to the loss that the top of the network reports later.

    g_n = dV(h_n, c(y_n); φ)/dh_n, φ by descent on (1/N) sum over n of (V_n - L_n)², L_n the loss of sample n. A member
    of h has a critic of its own. Only a number per sample comes back from the top; so it is cheap to send, and it says
    much less of the gradient than the gradient does: V is right in value long before it is right in slope.

    Source: Czarnecki et al. 2017 (arXiv 1703.00522), section on other methods, where a critic is the actor-critic's
    way to a synthetic gradient; the network and the optimiser are ours.

    Args:
        num_classes: labels lie in [0, num_classes).
        network: V.
        embedding_dim: length of a learned embedding of the labels; None: one-hot.
        optimizer: makes V's optimiser from an iterable of parameters.
        schedule: factor of the optimiser's learning rates, as a function of the step.

    Raises:
        ValueError: at build, if V does not return a number per sample; at each step, if the labels are missing, lie
            outside [0, num_classes) or are not one per sample, or the loss is missing.
    """

    needs = Need.TARGET
    learns_from = Need.LOSS | Need.TARGET

    def __init__(
        self,
        num_classes: int = 10,
        network: CriticNetwork = _VALUE_MLP,
        *,
        embedding_dim: int | None = None,
        optimizer: OptimizerFactory = ADAM,
        schedule: Schedule = CONSTANT,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        make = partial(_Value, network, num_classes=num_classes, embedding_dim=embedding_dim)
        self.regression = Regression(make, optimizer=optimizer, schedule=schedule)

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        self.regression.build(h, any_labels(h), generator=generator)

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        self.regression.remap(origin, generator=generator, axis=axis)

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        return self.regression.estimate(h, target_of(signal, self))

    def learn(self, h: Members, signal: Signal) -> float:
        target, loss = target_of(signal, self), loss_of(signal, self)
        return self.regression.descend(
            lambda: _value_error(self.regression, h, loss, target) / num_samples(h), step=signal.step
        )


class SobolevCritic(nn.Module):
    """A `Critic` that is fitted to the value and to the slope: to L_n, and to the gradient that arrives later.

    φ by descent on (1/N) sum over n of (V_n - L_n)² + w ||dV_n/dh_n - δ_n||². A synthetic gradient that is the gradient
    of something; the slope's part takes second derivatives of V.

    Source: Czarnecki et al. 2017, Sobolev training (arXiv 1706.04859), which proposes it for synthetic gradients; w
    is ours.

    Args:
        num_classes: labels lie in [0, num_classes).
        network: V, twice differentiable.
        gradient_weight: w, positive.
        embedding_dim: length of a learned embedding of the labels; None: one-hot.
        optimizer: makes V's optimiser from an iterable of parameters.
        schedule: factor of the optimiser's learning rates, as a function of the step.

    Raises:
        ValueError: w is not positive; else as `Critic`, and at each step, if the gradient is missing.
    """

    needs = Need.TARGET
    learns_from = Need.LOSS | Need.GRADIENT | Need.TARGET

    def __init__(
        self,
        num_classes: int = 10,
        network: CriticNetwork = _VALUE_MLP,
        *,
        gradient_weight: float = 1.0,
        embedding_dim: int | None = None,
        optimizer: OptimizerFactory = ADAM,
        schedule: Schedule = CONSTANT,
    ) -> None:
        super().__init__()
        if not gradient_weight > 0.0:
            raise ValueError(f"gradient_weight must be positive, got {gradient_weight}. Without it, use Critic.")
        self.num_classes = num_classes
        self.gradient_weight = gradient_weight
        make = partial(_Value, network, num_classes=num_classes, embedding_dim=embedding_dim)
        self.regression = Regression(make, optimizer=optimizer, schedule=schedule)

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        self.regression.build(h, any_labels(h), generator=generator)

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        self.regression.remap(origin, generator=generator, axis=axis)

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        return self.regression.estimate(h, target_of(signal, self))

    def learn(self, h: Members, signal: Signal) -> float:
        target, loss, gradient = target_of(signal, self), loss_of(signal, self), gradient_of(signal, self)

        def error() -> Tensor:
            slope = self.regression.squared_error(h, gradient, target)
            return (_value_error(self.regression, h, loss, target) + self.gradient_weight * slope) / num_samples(h)

        return self.regression.descend(error, step=signal.step)


class _Value(nn.Module):
    """V for one member of h, and the form in which it sees the labels."""

    def __init__(self, network: CriticNetwork, h: Tensor, *, num_classes: int, embedding_dim: int | None) -> None:
        super().__init__()
        self.labels = LabelContext(num_classes, embedding_dim=embedding_dim)
        module = copy.deepcopy(network) if isinstance(network, nn.Module) else network(h, self.labels.num_context)
        if not isinstance(module, nn.Module):
            raise TypeError(
                "a critic's network must be a module, or a function (h, num_context) that returns one, got "
                f"{network!r}, which gave {type(module).__name__}. Return an nn.Module."
            )
        self.network = module

    def value(self, h: Tensor, target: Tensor) -> Tensor:
        """The predicted loss of each sample, (N,)."""
        values: Tensor = self.network(h, self.labels(h.flatten(1), target))
        if values.shape not in ((h.shape[0],), (h.shape[0], 1)):
            raise ValueError(
                f"a critic must return a number per sample, ({h.shape[0]},) or ({h.shape[0]}, 1), got "
                f"{tuple(values.shape)} from {type(self.network).__name__}. Make its last layer end in one number."
            )
        return values.flatten()

    def axis_changes(self, origin: Origin, h: Tensor) -> AxisChanges:
        if not isinstance(self.network, UnitFollower):
            raise refusal(self.network, "use ValueMLP")
        return within("network", self.network.axis_changes(origin, h))

    def forward(self, h: Tensor, target: Tensor) -> Tensor:
        """The gradient of the predicted loss at h."""
        return gradient_at(h, lambda leaf: self.value(leaf, target).sum())


class _OnFlattened(nn.Module):
    """A map of (N, numbers of h + K) to (N, 1)."""

    def __init__(self, map: nn.Module) -> None:
        super().__init__()
        self.map = map

    def axis_changes(self, origin: Origin, h: Tensor) -> AxisChanges:
        columns = flattened(origin, h.shape[1:].numel(), units_last=h.dim() == 3)
        return within("map", first_reads(self.map, columns))

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        return self.map(torch.cat([h.flatten(1), context], dim=1))  # type: ignore[no-any-return]


def _value_error(regression: Regression, h: Members, loss: Tensor, target: Tensor) -> Tensor:
    """The squared error in value, summed over members and samples."""
    return regression.total(
        h, lambda critic, member: F.mse_loss(critic.value(member, target), loss.to(member), reduction="sum")
    )
