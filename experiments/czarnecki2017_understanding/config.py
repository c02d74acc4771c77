"""Which runs are made? Three kinds of jobs, each of which has a whole configuration.

`Toy`: linear networks, on artificial sets, with the squared error or the log loss; the synthesizer is linear or matches
the loss. `Deep`: 20 hidden layers on MNIST, with synthetic gradients after none, the middle one or every one, at two
paces. `Small`: few or wrongly labelled digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from dni import ConditionalSyntheticGradient, Cosine, GradientSource, TrueGradient
from experiments.czarnecki2017_understanding.matched import SquaredError, matched
from experiments.czarnecki2017_understanding.toys import NUM_SAMPLES, TOYS, toy
from experiments.datasets import Dataset, mnist
from pipeline import Adam, Config, Data, KeyedBatches, generator

__all__ = ["DEEP_LAYERS", "Deep", "Job", "Small", "Toy", "all_jobs", "digits", "hidden_blocks"]

Method: TypeAlias = Literal["bp", "linear", "matched"]
Where: TypeAlias = Literal["none", "middle", "every"]
Pace: TypeAlias = Literal["even", "slow"]

TOY_STEPS = 2_000
TOY_LAYERS = 10
"""Hidden layers of a deep linear network."""
TOY_WIDTH = 16
DEEP_LAYERS = 20
DEEP_WIDTH = 128
DEEP_STEPS = 10 * 235
"""10 epochs of 60000 samples in batches of 256."""
DEEP_RATES: Mapping[Pace, tuple[float, float]] = {"even": (1e-3, 1e-3), "slow": (1e-4, 3e-4)}
"""(of the network, of its synthesizers), by pace."""
SMALL_LAYERS = 4
SMALL_WIDTH = 256
SMALL_STEPS = 400
SMALL_SETS = ((100, 0.0), (1_000, 0.0), (1_000, 0.25), (1_000, 0.5))
"""(samples, share of random labels)."""


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A linear network in two stages, on an artificial set, every step on the whole of it."""

    data: str
    num_dims: int
    depth: Literal["linear", "deep"]
    """linear: one layer, and the boundary between its output and the loss. deep: 10 hidden layers, the boundary in the
    middle."""
    loss: Literal["mse", "log"]
    method: Method
    seed: int = 0

    @property
    def name(self) -> str:
        """Of the row."""
        return f"toy {self.data} {self.num_dims} {self.depth} {self.loss} {self.method}"

    def config(self) -> Config:
        """The whole configuration."""
        return Config(
            model=partial(_linear_network, self.num_dims, self.depth),
            data=partial(_toy_data, self.data, self.num_dims, self.seed),
            loss=SquaredError() if self.loss == "mse" else nn.CrossEntropyLoss(),
            source=_source(self.method, num_classes=2, rate=1e-2),
            steps=TOY_STEPS,
            seed=self.seed,
            optimizer=Adam(lr=1e-2 if self.depth == "linear" else 1e-3),
            schedule=Cosine(total=TOY_STEPS),
            delay=(1,),
            device="cpu",
            log_every=TOY_STEPS,
        )


@dataclass(frozen=True, kw_only=True)
class Deep:
    """20 hidden layers on MNIST."""

    where: Where
    """After which hidden layers a synthetic gradient stands."""
    pace: Pace = "even"
    """even: the network and its synthesizers learn at one rate. slow: both learn slower, and the network slowest."""
    seed: int = 0

    @property
    def name(self) -> str:
        """Of the row."""
        return f"deep {self.where}" if self.pace == "even" else f"deep {self.where} {self.pace}"

    def config(self) -> Config:
        """The whole configuration."""
        rate, synthesizer_rate = DEEP_RATES[self.pace]
        return Config(
            model=partial(_deep_network, self.where),
            data=_mnist_data,
            loss=nn.CrossEntropyLoss(),
            source=_source("bp" if self.where == "none" else "linear", num_classes=10, rate=synthesizer_rate),
            steps=DEEP_STEPS,
            seed=self.seed,
            optimizer=Adam(lr=rate),
            delay=(1,),
            device="cpu",
            probe_samples=0 if self.where == "none" else 500,
        )


@dataclass(frozen=True, kw_only=True)
class Small:
    """4 hidden layers, a boundary after each, on few digits, some with random labels."""

    num_samples: int
    noise: float
    """Share of the training labels that are drawn at random."""
    method: Literal["bp", "linear"]
    seed: int = 0

    @property
    def name(self) -> str:
        """Of the row."""
        return f"small {self.num_samples} {self.noise:g} {self.method}"

    def config(self) -> Config:
        """The whole configuration."""
        return Config(
            model=_small_network,
            data=partial(_small_data, self.num_samples, self.noise, self.seed),
            loss=nn.CrossEntropyLoss(),
            source=_source(self.method, num_classes=10, rate=1e-3),
            steps=SMALL_STEPS,
            seed=self.seed,
            optimizer=Adam(lr=1e-3),
            delay=(1,),
            device="cpu",
            probe_samples=500,
        )


Job: TypeAlias = Toy | Deep | Small


def all_jobs(*, full: bool = False) -> list[Job]:
    """What the tables need: toys with one seed (three with `full`), the others with three."""
    seeds = (0, 1, 2)
    toys: list[Job] = [
        Toy(data=data, num_dims=num_dims, depth=depth, loss=loss, method=method, seed=seed)
        for seed in (seeds if full else seeds[:1])
        for data in TOYS
        for num_dims in (2, 100)
        for depth in ("linear", "deep")
        for loss, method in (("mse", "bp"), ("mse", "linear"), ("log", "bp"), ("log", "linear"), ("log", "matched"))
    ]  # type: ignore[misc]
    deeps: list[Job] = [
        *(Deep(where=where, seed=seed) for seed in seeds for where in ("none", "middle", "every")),
        *(Deep(where="every", pace="slow", seed=seed) for seed in seeds),
    ]
    smalls: list[Job] = [
        Small(num_samples=num_samples, noise=noise, method=method, seed=seed)
        for seed in seeds
        for num_samples, noise in SMALL_SETS
        for method in ("bp", "linear")
    ]  # type: ignore[misc]
    return [*toys, *deeps, *smalls]


def hidden_blocks(stages: list[nn.Module]) -> list[nn.Module]:
    """The hidden layers of a `Deep` network, each with its normalisation and activation, in order."""
    return [block for stage in stages for block in stage.modules() if isinstance(block, _Hidden)]


@cache
def digits() -> Dataset:
    """MNIST, read once a process."""
    return mnist()


class _Hidden(nn.Sequential):
    """Linear, BatchNorm, ReLU."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__(nn.Linear(num_inputs, num_outputs), nn.BatchNorm1d(num_outputs), nn.ReLU())


def _source(method: Method, *, num_classes: int, rate: float) -> GradientSource:
    if method == "bp":
        return TrueGradient()
    synthesizer = matched if method == "matched" else "linear"
    return ConditionalSyntheticGradient(num_classes, synthesizer, optimizer=Adam(lr=rate))


def _linear_network(num_dims: int, depth: str) -> list[nn.Module]:
    if depth == "linear":
        return [nn.Linear(num_dims, 2), nn.Identity()]
    widths = [num_dims, *[TOY_WIDTH] * TOY_LAYERS, 2]
    layers = [_orthogonal(before, after) for before, after in pairwise(widths)]
    return [nn.Sequential(*layers[: TOY_LAYERS // 2]), nn.Sequential(*layers[TOY_LAYERS // 2 :])]


def _orthogonal(num_inputs: int, num_outputs: int) -> nn.Linear:
    """Ten linear layers of PyTorch's own initial weights would let nothing through."""
    layer = nn.Linear(num_inputs, num_outputs)
    nn.init.orthogonal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _deep_network(where: Where) -> list[nn.Module]:
    blocks = [_Hidden(784 if index == 0 else DEEP_WIDTH, DEEP_WIDTH) for index in range(DEEP_LAYERS)]
    last = nn.Linear(DEEP_WIDTH, 10)
    match where:
        case "none":
            return [nn.Sequential(*blocks, last)]
        case "middle":
            return [nn.Sequential(*blocks[: DEEP_LAYERS // 2]), nn.Sequential(*blocks[DEEP_LAYERS // 2 :], last)]
    return [*blocks, last]


def _small_network() -> list[nn.Module]:
    hidden = [_Hidden(784 if index == 0 else SMALL_WIDTH, SMALL_WIDTH) for index in range(SMALL_LAYERS)]
    return [*hidden, nn.Linear(SMALL_WIDTH, 10)]


def _toy_data(name: str, num_dims: int, seed: int) -> Data:
    x, target = toy(name, num_dims=num_dims, seed=seed)
    return Data(train=KeyedBatches(x, target, batch_size=NUM_SAMPLES), test=[(x, target)])


def _mnist_data() -> Data:
    return Data(train=KeyedBatches(digits().train_x, digits().train_y, batch_size=256), test=_test_set())


def _small_data(num_samples: int, noise: float, seed: int) -> Data:
    x, target = digits().train_x[:num_samples], digits().train_y[:num_samples]
    draws = generator(seed, "noise", 0)
    random = torch.randint(0, 10, (num_samples,), generator=draws)
    target = torch.where(torch.rand(num_samples, generator=draws) < noise, random, target)
    return Data(train=KeyedBatches(x, target, batch_size=100), test=_test_set())


def _test_set() -> list[tuple[Tensor, Tensor]]:
    return list(zip(digits().test_x.split(1000), digits().test_y.split(1000), strict=True))
