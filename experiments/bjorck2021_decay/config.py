"""When do the weights decay, in which optimiser and how, and on what is that tried?

A network 784-128-128-10 with BatchNorm before each ReLU learns 10,000 pictures of Fashion-MNIST, few enough to be
learned by heart, at a constant rate: with one that falls to 0, late decay would do nothing for that reason alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor, nn

from dni import Coupling, WeightDecay, Within
from experiments.datasets import fashion_mnist
from pipeline import Adam, Config, Data, KeyedBatches, Sgd

__all__ = [
    "ARMS",
    "INVARIANT",
    "NONE",
    "OPTIMIZERS",
    "SEEDS",
    "SETTINGS",
    "WINDOWS",
    "Arm",
    "Settings",
    "Split",
    "config",
    "network",
    "split",
]

SEEDS = (0, 1, 2)
NONE = "none"
"""The window in which nothing decays: the same for every arm of an optimiser."""
WINDOWS: Mapping[str, tuple[float, float]] = {
    NONE: (0.0, 0.0),
    "all": (0.0, 1.0),
    "first 10 %": (0.0, 0.1),
    "first 25 %": (0.0, 0.25),
    "first 50 %": (0.0, 0.5),
    "last 50 %": (0.5, 1.0),
    "second 25 %": (0.25, 0.5),
    "third 25 %": (0.5, 0.75),
    "last 25 %": (0.75, 1.0),
}
"""From where to where in the run the weights decay; the quarters are one window that slides."""
OPTIMIZERS: Mapping[str, tuple[float, ...]] = {"SGD": (0.01, 0.03, 0.1), "Adam": (3e-4, 1e-3, 3e-3)}
"""SGD has momentum 0.9. Rates that are tried without decay."""
INVARIANT = ("0.weight", "3.weight")
"""The weights before a normalisation, whose scale the network's output does not feel."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to decay."""

    optimizer: str
    coupling: Coupling
    strengths: tuple[float, ...]
    """That are tried with decay all the time."""

    @property
    def title(self) -> str:
        return f"{self.optimizer}, {self.coupling}"


ARMS: Sequence[Arm] = (
    Arm(optimizer="SGD", coupling="coupled", strengths=(1e-4, 1e-3, 1e-2, 1e-1)),
    Arm(optimizer="SGD", coupling="decoupled", strengths=(1e-3, 1e-2, 1e-1, 1.0)),
    Arm(optimizer="Adam", coupling="coupled", strengths=(1e-4, 1e-3, 1e-2, 1e-1)),
    Arm(optimizer="Adam", coupling="decoupled", strengths=(1e-2, 1e-1, 1.0, 10.0)),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all runs have in common."""

    batch_size: int = 100
    steps: int = 2000
    """20 passes over the training samples."""
    measure_every: int = 10
    """Updates from one that is measured to the next."""
    num_points: int = 10
    """Parts of the run over which measures are averaged."""


SETTINGS = Settings()


@dataclass(frozen=True, kw_only=True)
class Split:
    """Fashion-MNIST: few samples to learn from, and as many as there are to choose by and to test on."""

    train_x: Tensor
    """(N, 784)"""
    train_y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor
    test_x: Tensor
    test_y: Tensor


@cache
def split() -> Split:
    """The first 10,000 training samples, the last 10,000, and the test samples; read once in a process."""
    whole = fashion_mnist()
    return Split(
        train_x=whole.train_x[:10_000].clone(),
        train_y=whole.train_y[:10_000],
        held_out_x=whole.train_x[-10_000:].clone(),
        held_out_y=whole.train_y[-10_000:],
        test_x=whole.test_x,
        test_y=whole.test_y,
    )


def network() -> list[nn.Module]:
    """One stage: linear, BatchNorm, ReLU twice, and a linear layer."""
    layers: list[nn.Module] = []
    for width in (784, 128):
        layers += [nn.Linear(width, 128), nn.BatchNorm1d(128), nn.ReLU()]
    return [nn.Sequential(*layers, nn.Linear(128, 10))]


def config(
    optimizer: str,
    *,
    rate: float,
    coupling: Coupling,
    strength: float,
    window: str,
    seed: int,
    settings: Settings = SETTINGS,
) -> Config:
    """The whole configuration of a run.

    Args:
        optimizer: one of OPTIMIZERS.
        rate: of the optimiser.
        coupling: how the weights decay.
        strength: λ within the window.
        window: one of WINDOWS.
        seed: of initial weights and order of the samples.
        settings: of all runs.
    """
    start, stop = (round(edge * settings.steps) for edge in WINDOWS[window])
    made: dict[str, Any] = {"SGD": Sgd(lr=rate, momentum=0.9), "Adam": Adam(lr=rate)}
    return Config(
        model=network,
        data=lambda: Data(train=KeyedBatches(split().train_x, split().train_y, batch_size=settings.batch_size)),
        loss=nn.CrossEntropyLoss(),
        optimizer=made[optimizer],
        weight_decay=WeightDecay(strength=strength, coupling=coupling, schedule=Within(start, stop)),
        steps=settings.steps,
        seed=seed,
        measure_updates_every=settings.measure_every,
        log_every=settings.steps // settings.num_points,
        device="cpu",
    )
