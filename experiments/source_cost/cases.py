"""What is compared: sources of the package, and the same arithmetic as one would write it by hand.

Letters: N samples, F features of the stage's output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import MLP, ConditionalSyntheticGradient, LowRank, Signal, SyntheticGradient

__all__ = ["CASES", "NUM_CLASSES", "ByHand", "Case", "Contender", "FromPackage", "batch"]

NUM_CLASSES = 10


class Contender(Protocol):
    """Predicts gradients and learns to."""

    def estimate(self, h: Tensor, target: Tensor) -> Tensor:
        """The gradient at h, (N, F)."""

    def learn(self, h: Tensor, target: Tensor, gradient: Tensor) -> float:
        """One step of its regression; its loss."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kind of synthesizer."""

    source: Callable[[], SyntheticGradient | ConditionalSyntheticGradient]
    network: Callable[[int], nn.Module]
    """The same network by hand, for F features."""
    conditional: bool


def batch(num_samples: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """A stage's output after ReLU, labels, and a gradient at it."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(num_samples, width, generator=generator).relu()
    target = torch.randint(0, NUM_CLASSES, (num_samples,), generator=generator)
    return h, target, torch.randn(num_samples, width, generator=generator)


class FromPackage:
    """A source of `dni`, called as a stage calls it.

    Args:
        case: its kind.
        h: the first output.
    """

    def __init__(self, case: Case, h: Tensor) -> None:
        self.source = case.source()
        self.source.build(h, generator=torch.Generator().manual_seed(0))
        self._step = 0

    def estimate(self, h: Tensor, target: Tensor) -> Tensor:
        """See `Contender`."""
        estimate = self.source.estimate(h, Signal(step=self._step, target=target))
        assert isinstance(estimate, Tensor)
        return estimate

    def learn(self, h: Tensor, target: Tensor, gradient: Tensor) -> float:
        """See `Contender`."""
        self._step += 1
        return self.source.learn(h, Signal(step=self._step, target=target, gradient=gradient))


class ByHand:
    """The same regression in plain PyTorch, without checks, schedule, or any h but one tensor of features.

    Args:
        case: its kind.
        h: the first output.
    """

    def __init__(self, case: Case, h: Tensor) -> None:
        self.network = case.network(h.shape[1])
        self._conditional = case.conditional
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def estimate(self, h: Tensor, target: Tensor) -> Tensor:
        """See `Contender`."""
        with torch.no_grad():
            found: Tensor = self.network(self._joined(h, target))
        return found

    def learn(self, h: Tensor, target: Tensor, gradient: Tensor) -> float:
        """See `Contender`."""
        self._optimizer.zero_grad()
        loss = F.mse_loss(self.network(self._joined(h, target)), gradient, reduction="sum") / len(h)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.item()

    def _joined(self, h: Tensor, target: Tensor) -> Tensor:
        if not self._conditional:
            return h
        labels = h.new_zeros(len(h), NUM_CLASSES).scatter_(1, target[:, None], 1.0)
        return torch.cat([h, labels], dim=1)


def _linear(width: int, *, num_context: int = 0) -> nn.Module:
    return _zeroed(nn.Linear(width + num_context, width))


def _low_rank(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width + NUM_CLASSES, 64, bias=False), _zeroed(nn.Linear(64, width)))


def _mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width + NUM_CLASSES, 256), nn.ReLU(), _zeroed(nn.Linear(256, width)))


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


CASES: Mapping[str, Case] = {
    "linear": Case(source=SyntheticGradient, network=_linear, conditional=False),
    "conditional linear": Case(
        source=partial(ConditionalSyntheticGradient, NUM_CLASSES),
        network=partial(_linear, num_context=NUM_CLASSES),
        conditional=True,
    ),
    "conditional, rank 64": Case(
        source=partial(ConditionalSyntheticGradient, NUM_CLASSES, LowRank(rank=64)), network=_low_rank, conditional=True
    ),
    "conditional, 256 hidden": Case(
        source=partial(ConditionalSyntheticGradient, NUM_CLASSES, MLP(hidden=(256,), batch_norm=False)),
        network=_mlp,
        conditional=True,
    ),
}
