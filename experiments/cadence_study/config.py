"""On what are the arrangements compared: which networks, data and optimisers, and for how long?

Two small networks of four layers, without normalisation (whose statistics would follow every step whatever the
cadence). The rate falls to 0 along half a cosine: at a constant one, whatever averages gradients late in training wins
by being a smaller rate.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from dni import Cosine, RateRule, Shapes
from experiments.cadence_study.arms import ARMS, CONTROLS
from experiments.datasets import Dataset, cifar10, cifar10_subset, fashion_mnist, mnist
from pipeline import Adam, Config, Data, KeyedBatches, Sgd

__all__ = [
    "BATCH_SIZE",
    "CHOSEN_ON",
    "COMPARISONS",
    "DATA",
    "FULL_SEEDS",
    "NETS",
    "RATES",
    "RULES",
    "SCREENING_SEED",
    "SEEDS",
    "SIZES",
    "TASKS",
    "Size",
    "Split",
    "Task",
    "make_config",
    "network",
    "rules_of",
    "shapes_of",
    "split",
]

BATCH_SIZE = 64
SCREENING_SEED = 0
"""Rates, rules and finalists are chosen with it, on held-out samples; it is not among those of the finals."""
SEEDS = (1, 2, 3, 4, 5)
FULL_SEEDS = (1, 2, 3)
_NUM_HELD_OUT = 10_000
"""The last of the training samples."""
_WARMUP = 10
"""The rate rises in the first of so many parts of a run: larger batches are stable at larger rates only with that."""

COMPARISONS: Mapping[str, str] = {"samples": "equal samples", "updates": "equal updates"}
RATES: Mapping[str, tuple[float, ...]] = {"SGD": (0.01, 0.03, 0.1, 0.3), "Adam": (1e-3, 3e-3, 1e-2, 3e-2)}
"""The grid of an optimiser is the same for all of its arms. SGD has momentum 0.9."""
RULES: Mapping[str, tuple[RateRule, ...]] = {"SGD": ("none", "linear"), "Adam": ("none", "sqrt")}
"""That are screened: beside none, the one that the theory of the optimiser's noise suggests."""
NETS: Mapping[str, str] = {"mlp": "MLP", "cnn": "CNN"}
DATA: Mapping[str, str] = {"mnist": "MNIST", "fashion": "Fashion-MNIST", "cifar": "CIFAR-10 subset"}
CHOSEN_ON = "fashion"
"""The data on which an arm's rate rule is chosen, for each network; its rate is chosen on all of them."""


class Task(NamedTuple):
    """A network and data, by the names in NETS and DATA."""

    net: str
    data: str

    @property
    def title(self) -> str:
        return f"{NETS[self.net]}, {DATA[self.data]}"


TASKS = tuple(Task(net, data) for net in NETS for data in DATA)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large networks and data are, and how long a run is."""

    width: int
    """Of the MLP's hidden layers."""
    channels: tuple[int, int, int]
    """Of the CNN's convolutions."""
    num_training: int
    """Samples to learn from, the first of the training set."""
    steps: int
    """Microbatches of a run, where samples are equal."""
    readers: Mapping[str, Callable[..., Dataset]]
    """By the name of the data."""

    @property
    def updates(self) -> int:
        """Of a parameter, the mean over all, where updates are equal: as many as every fourth step makes."""
        return self.steps // 4


SIZES: Mapping[str, Size] = {
    "small": Size(
        width=128,
        channels=(16, 32, 32),
        num_training=10_000,
        steps=936,  # 6 passes
        readers={"mnist": mnist, "fashion": fashion_mnist, "cifar": cifar10_subset},
    ),
    "large": Size(
        width=1024,
        channels=(64, 128, 128),
        num_training=40_000,
        steps=12_500,  # 20 passes
        readers={"mnist": mnist, "fashion": fashion_mnist, "cifar": cifar10},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Split:
    """Pictures (N, C, H, W) and labels (N,): to learn from, to choose by, and to test on."""

    train_x: Tensor
    train_y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor
    test_x: Tensor
    test_y: Tensor


@cache
def split(data: str, size: str = "small") -> Split:
    """Read once in a process."""
    num_training = SIZES[size].num_training
    whole = SIZES[size].readers[data]("image")
    return Split(
        train_x=whole.train_x[:num_training].clone(),  # so that the rest is freed
        train_y=whole.train_y[:num_training],
        held_out_x=whole.train_x[-_NUM_HELD_OUT:].clone(),
        held_out_y=whole.train_y[-_NUM_HELD_OUT:],
        test_x=whole.test_x,
        test_y=whole.test_y,
    )


def network(task: Task, size: str = "small") -> list[nn.Module]:
    """One stage, of four layers with parameters, 0.layer1 to 0.layer4.

    MLP: three hidden layers of one width; of CIFAR-10's pictures it sees the means of 2 x 2 pixels, so that all three
    data sets have inputs of about one size (784, 784, 768). CNN: 5 x 5 with stride 4, 3 x 3, 3 x 3 with stride 2.
    """
    coloured, sizes = task.data == "cifar", SIZES[size]
    if task.net == "mlp":
        widths = (768 if coloured else 784, *(sizes.width,) * 3)
        before: list[nn.Module] = [nn.AvgPool2d(2), nn.Flatten()] if coloured else [nn.Flatten()]
        hidden: list[nn.Module] = [nn.Linear(a, b) for a, b in pairwise(widths)]
        last: list[nn.Module] = [nn.Linear(sizes.width, 10)]
    else:
        a, b, c = sizes.channels
        before = []
        hidden = [
            nn.Conv2d(3 if coloured else 1, a, 5, stride=4, padding=2),
            nn.Conv2d(a, b, 3, padding=1),
            nn.Conv2d(b, c, 3, stride=2, padding=1),
        ]
        last = [nn.Flatten(), nn.Linear(16 * c, 10)]
    parts = [(f"before{i}", module) for i, module in enumerate(before)]
    for i, module in enumerate(hidden, 1):
        parts += [(f"layer{i}", module), (f"relu{i}", nn.ReLU())]
    parts += [(f"flatten{i}", module) for i, module in enumerate(last[:-1])]
    return [nn.Sequential(OrderedDict([*parts, ("layer4", last[-1])]))]


@cache
def shapes_of(task: Task, size: str = "small") -> Shapes:
    """Of the network's parameters, by their global names."""
    (stage,) = network(task, size)
    return {f"0.{name}": tuple(parameter.shape) for name, parameter in stage.named_parameters()}


def rules_of(arm: str, optimizer: str) -> tuple[RateRule, ...]:
    """Those that are tried. Where all blocks are alike, a rule is a factor of the rate, which the grid has anyway."""
    return RULES[optimizer][:1] if arm in CONTROLS else RULES[optimizer]


def make_config(
    arm: str,
    task: Task,
    *,
    optimizer: str,
    rule: RateRule,
    rate: float,
    seed: int,
    steps: int,
    size: str = "small",
) -> Config:
    """The whole configuration of a run.

    Args:
        arm: one of ARMS.
        task: network and data.
        optimizer: one of RATES.
        rule: by which a block's rate follows what it has accumulated.
        rate: at the first step.
        seed: of initial weights and order of the samples: the same for all arms.
        steps: microbatches.
        size: one of SIZES.
    """
    divide = ARMS[arm].divide
    return Config(
        model=partial(network, task, size),
        data=lambda: Data(train=_batches(split(task.data, size))),
        loss=nn.CrossEntropyLoss(),
        optimizer=Sgd(lr=rate, momentum=0.9) if optimizer == "SGD" else Adam(lr=rate),
        schedule=Cosine(total=steps, warmup=steps // _WARMUP),
        cadence=(ARMS[arm].period,),
        blocks=() if divide is None else divide(shapes_of(task, size), steps),
        rate_rule=rule,
        steps=steps,
        seed=seed,
        log_every=steps,
        device="cpu",
    )


def _batches(data: Split) -> KeyedBatches:
    return KeyedBatches(data.train_x, data.train_y, batch_size=BATCH_SIZE, drop_last=True)
