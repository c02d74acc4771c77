"""Whose Hessians are looked at? Two small networks without normalisation, each trained in five ways from several seeds.

A perceptron learns MNIST, a convolutional network the CIFAR-10 subset. Each layer is a stage, so that a synthetic
gradient can stand at each boundary; with the true gradient the cut makes no difference to what is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise

from torch import nn

from dni import Bernoulli, ConditionalSyntheticGradient, GradientSource, Linear, Never, SyncPolicy, TrueGradient
from experiments.datasets import Dataset, cifar10_subset, mnist
from pipeline import Adam, Config, Data, KeyedBatches

__all__ = ["ARMS", "NETWORKS", "NUM_CLASSES", "Arm", "Network", "config", "data", "layers"]

NUM_CLASSES = 10
BATCH_SIZE = 128
RATE = 1e-3
"""Of Adam, in every stage and every synthesizer."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, what it learns, and for how long."""

    title: str
    make: Callable[[], list[nn.Module]]
    """Its stages: each a chain that begins with its layer."""
    load: Callable[[], Dataset]
    steps: int
    seeds: tuple[int, ...]
    """Of weights and of the order of the samples."""
    num_looked_at: int
    """Samples of the loss whose Hessian is taken: the first of those that it learns from."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train."""

    title: str
    part: float = 1.0
    """Of the network's steps; 0: it is looked at as it begins."""
    synthetic: bool = False
    """Whether each stage but the last learns from a synthetic gradient, told the label."""
    sync: SyncPolicy = field(default_factory=Never)
    """When the true gradient is used all the way down in its place."""


ARMS: Mapping[str, Arm] = {
    "init": Arm(title="initial weights", part=0.0),
    "early": Arm(title="backprop, an eighth of the steps", part=0.125),
    "bp": Arm(title="backprop"),
    "sync": Arm(title="synthetic, one step in ten true", synthetic=True, sync=Bernoulli(0.1)),
    "never": Arm(title="synthetic, never true", synthetic=True),
}


def _perceptron() -> list[nn.Module]:
    """784-32-32-32-10."""
    widths = (784, 32, 32, 32)
    hidden = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
    return [*hidden, nn.Sequential(nn.Linear(32, 10))]


def _convolutional() -> list[nn.Module]:
    """LeNet's two convolutions of 5 x 5 and its linear layers, with strides in place of pooling."""
    return [
        nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 5, stride=2), nn.ReLU(), nn.Flatten()),
        nn.Sequential(nn.Linear(400, 32), nn.ReLU()),
        nn.Sequential(nn.Linear(32, 10)),
    ]


NETWORKS: Mapping[str, Network] = {
    "mlp": Network(
        title="perceptron, MNIST", make=_perceptron, load=mnist, steps=1000, seeds=(0, 1, 2, 3, 4), num_looked_at=1000
    ),
    "cnn": Network(
        title="convolutional, CIFAR-10 subset",
        make=_convolutional,
        load=partial(cifar10_subset, "image"),
        steps=600,
        seeds=(0, 1, 2),
        num_looked_at=500,
    ),
}


@cache
def data(network: str) -> Dataset:
    """Read once in a process."""
    return NETWORKS[network].load()


def config(network: str, arm: str, *, seed: int, steps: int | None = None) -> Config:
    """The whole configuration of a run.

    Args:
        network: name in NETWORKS.
        arm: name in ARMS. For `init`, whose run is prepared and not made, steps count as one.
        seed: of initial weights, which are those of the other arms with this seed, and of the order of the samples.
        steps: microbatches; None: as many as network and arm say.
    """
    own = ARMS[arm]
    return Config(
        model=NETWORKS[network].make,
        data=partial(_training_data, network),
        loss=nn.CrossEntropyLoss(),
        source=_source(own),
        sync=own.sync,
        optimizer=Adam(lr=RATE),
        steps=steps or max(1, round(own.part * NETWORKS[network].steps)),
        seed=seed,
        delay=(1,),
        measure_every=0,
        device="cpu",
    )


def layers(stages: list[nn.Module]) -> nn.Sequential:
    """The whole network as one chain."""
    return nn.Sequential(*(part for stage in stages for part in stage.modules() if not list(part.children())))


def _source(arm: Arm) -> GradientSource:
    if not arm.synthetic:
        return TrueGradient()
    # A kernel of 3 where the papers have 5 x 5: synthesizers are most of what a convolutional model costs here.
    return ConditionalSyntheticGradient(NUM_CLASSES, Linear(kernel_size=3), optimizer=Adam(lr=RATE))


def _training_data(network: str) -> Data:
    own = data(network)
    return Data(train=KeyedBatches(own.train_x, own.train_y, batch_size=BATCH_SIZE))
