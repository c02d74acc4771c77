"""When do the weights decay, in which optimiser and how, and on what is that tried?

A network of three linear layers with BatchNorm before each ReLU learns few pictures, so few that it can learn them by
heart. In what setting decay helps at all is tried first, in STUDIES; when it helps can be asked only there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from dni import Coupling, Steps, WeightDecay, Within
from experiments.datasets import cifar10_subset, fashion_mnist
from pipeline import Adam, Config, Data, KeyedBatches, Sgd, generator

__all__ = [
    "ARMS",
    "INVARIANT",
    "NONE",
    "OPTIMIZERS",
    "SEEDS",
    "STUDIES",
    "WINDOWS",
    "Arm",
    "Settings",
    "Split",
    "Study",
    "config",
    "network",
    "split",
]

Source: TypeAlias = Literal["Fashion-MNIST", "CIFAR-10"]

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
OPTIMIZERS = ("SGD", "Adam")
"""SGD has momentum 0.9."""
INVARIANT = ("0.weight", "3.weight")
"""The weights before a normalisation, whose scale the network's output does not feel."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to decay."""

    optimizer: str
    coupling: Coupling

    @property
    def title(self) -> str:
        return f"{self.optimizer}, {self.coupling}"


ARMS: Sequence[Arm] = tuple(
    Arm(optimizer=optimizer, coupling=coupling) for optimizer in OPTIMIZERS for coupling in ("coupled", "decoupled")
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all runs of a study have in common. As it was first: at a constant rate."""

    data: Source = "Fashion-MNIST"
    num_samples: int = 10_000
    """To learn from; at most 10,000."""
    wrong_labels: float = 0.0
    """The part of them that has any label."""
    width: int = 128
    """Of the two hidden layers."""
    batch_size: int = 100
    steps: int = 2000
    drop_at: float = 1.0
    """Part of the run after which the rate is a tenth; 1: it is constant."""
    measure_every: int = 10
    """Updates from one that is measured to the next."""
    num_points: int = 10
    """Parts of the run over which measures are averaged."""

    @property
    def last_at_full_rate(self) -> int:
        """The last of these parts before the rate drops."""
        return round(self.drop_at * self.num_points) - 1


@dataclass(frozen=True, kw_only=True)
class Study:
    """A setting, and what is tried in it."""

    title: str
    settings: Settings
    rates: Mapping[str, tuple[float, ...]]
    """By optimiser: tried without decay."""
    strengths: Mapping[Arm, tuple[float, ...]]
    """Tried with decay all the time, at the best rate."""
    windowed: Sequence[Arm] = ()
    """Those with which windows are run too, with every seed."""
    windows: Sequence[str] = tuple(window for window in WINDOWS if window != NONE)
    """Which."""


_SGD, _SGD_DECOUPLED, _ADAM, _ADAM_DECOUPLED = ARMS


def _trial(title: str, settings: Settings) -> Study:
    """Does decay help here? Asked of one arm."""
    strengths = {_SGD: (3e-4, 1e-3, 3e-3, 1e-2)}
    return Study(title=title, settings=settings, rates={"SGD": (0.03, 0.1, 0.3)}, strengths=strengths)


STUDIES: Sequence[Study] = (
    Study(
        title="constant rate",
        settings=Settings(),
        rates={"SGD": (0.01, 0.03, 0.1), "Adam": (3e-4, 1e-3, 3e-3)},
        strengths={
            _SGD: (1e-4, 1e-3, 1e-2, 1e-1),
            _SGD_DECOUPLED: (1e-3, 1e-2, 1e-1, 1.0),
            _ADAM: (1e-4, 1e-3, 1e-2, 1e-1),
            _ADAM_DECOUPLED: (1e-2, 1e-1, 1.0, 10.0),
        },
        windowed=ARMS,
    ),
    _trial("rate drops", Settings(drop_at=0.8)),
    _trial("rate drops, 1,000 samples", Settings(drop_at=0.8, num_samples=1000)),
    _trial("rate drops, 6,000 steps", Settings(drop_at=0.8, steps=6000)),
    _trial("rate drops, width 512", Settings(drop_at=0.8, width=512)),
    Study(
        title="rate drops, a fifth of the labels drawn",
        settings=Settings(drop_at=0.8, wrong_labels=0.2),
        rates={"SGD": (0.003, 0.01, 0.03, 0.1, 0.3), "Adam": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)},
        strengths={
            _SGD: (3e-4, 1e-3, 3e-3, 1e-2),
            _SGD_DECOUPLED: (3e-3, 1e-2, 3e-2, 1e-1),
            _ADAM: (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
            _ADAM_DECOUPLED: (0.1, 0.3, 1.0, 3.0, 10.0),
        },
    ),
    Study(
        title="rate drops, CIFAR-10",
        settings=Settings(drop_at=0.8, data="CIFAR-10"),
        rates={"SGD": (0.01, 0.03, 0.1, 0.3), "Adam": (1e-4, 3e-4, 1e-3)},
        strengths={
            _SGD: (3e-4, 1e-3, 3e-3, 1e-2),
            _SGD_DECOUPLED: (3e-3, 1e-2, 3e-2, 1e-1),
            _ADAM: (1e-3, 3e-3, 1e-2, 3e-2),
            _ADAM_DECOUPLED: (0.3, 1.0, 3.0, 10.0),
        },
        windowed=ARMS,
        windows=("all", "first 25 %", "first 50 %", "last 50 %", "second 25 %", "third 25 %", "last 25 %"),
    ),
)
"""In the order in which they were tried. Windows were run first at a constant rate, and then where decay all the time
helped clearly at a rate that is best without it."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Few samples to learn from, and as many as there are to choose by and to test on."""

    train_x: Tensor
    """(N, D), D 784 or 3072"""
    train_y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor
    test_x: Tensor
    test_y: Tensor


@cache
def split(data: Source) -> Split:
    """The first 10,000 training samples, the last 10,000, and the test samples; read once in a process."""
    whole = fashion_mnist() if data == "Fashion-MNIST" else cifar10_subset("flat")
    return Split(
        train_x=whole.train_x[:10_000].clone(),
        train_y=whole.train_y[:10_000],
        held_out_x=whole.train_x[-10_000:].clone(),
        held_out_y=whole.train_y[-10_000:],
        test_x=whole.test_x,
        test_y=whole.test_y,
    )


def network(num_features: int, width: int) -> list[nn.Module]:
    """One stage: linear, BatchNorm, ReLU twice, and a linear layer."""
    layers: list[nn.Module] = []
    for before in (num_features, width):
        layers += [nn.Linear(before, width), nn.BatchNorm1d(width), nn.ReLU()]
    return [nn.Sequential(*layers, nn.Linear(width, 10))]


def config(
    optimizer: str,
    *,
    rate: float,
    coupling: Coupling,
    strength: float,
    window: str,
    seed: int,
    settings: Settings,
) -> Config:
    """The whole configuration of a run.

    Args:
        optimizer: one of OPTIMIZERS.
        rate: of the optimiser.
        coupling: how the weights decay.
        strength: λ within the window.
        window: one of WINDOWS.
        seed: of initial weights and order of the samples.
        settings: of the study.
    """
    start, stop = (round(edge * settings.steps) for edge in WINDOWS[window])
    made: dict[str, Any] = {"SGD": Sgd(lr=rate, momentum=0.9), "Adam": Adam(lr=rate)}
    x, y = _samples(settings)
    return Config(
        model=lambda: network(x.shape[1], settings.width),
        data=lambda: Data(train=KeyedBatches(x, y, batch_size=settings.batch_size)),
        loss=nn.CrossEntropyLoss(),
        optimizer=made[optimizer],
        schedule=Steps(at=(round(settings.drop_at * settings.steps),)),
        weight_decay=WeightDecay(strength=strength, coupling=coupling, schedule=Within(start, stop)),
        steps=settings.steps,
        seed=seed,
        measure_updates_every=settings.measure_every,
        log_every=settings.steps // settings.num_points,
        device="cpu",
    )


def _samples(settings: Settings) -> tuple[Tensor, Tensor]:
    """What is learned; wrong labels are the same in every run."""
    whole = split(settings.data)
    x, y = whole.train_x[: settings.num_samples], whole.train_y[: settings.num_samples]
    drawn = generator(0, "wrong labels", 0)
    wrong = torch.rand(len(y), generator=drawn) < settings.wrong_labels
    return x, torch.where(wrong, torch.randint(10, (len(y),), generator=drawn), y)
