"""On what are the rules compared: which networks, data and optimisers, at which rates, and for how long?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from dni import Constant, Cosine
from experiments.datasets import Dataset, cifar10_subset, fashion_mnist
from experiments.sparse_peers.rules import RULES, Course, blocks_of
from pipeline import Adam, Config, Data, KeyedBatches, Sgd

__all__ = [
    "BATCH_SIZE",
    "CELLS",
    "DATA",
    "LARGE",
    "NETS",
    "RATES",
    "SEEDS",
    "SHAPES",
    "SIZES",
    "SMALL",
    "TASKS",
    "Cell",
    "Size",
    "Split",
    "Task",
    "course_of",
    "make_config",
    "network",
    "split",
]

BATCH_SIZE = 50
SEEDS = (0, 1, 2)
"""Rates are chosen with the first, on held-out samples."""
RATES: Mapping[str, tuple[float, ...]] = {"SGD": (0.003, 0.01, 0.03, 0.1, 0.3), "Adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}
"""The inner three are tried by every rule, the outer ones by a rule whose best one is next to them. SGD has momentum
0.9."""
NETS: Mapping[str, str] = {"mlp": "MLP", "cnn": "VGG-like CNN"}
DATA: Mapping[str, str] = {"fashion": "Fashion-MNIST", "cifar": "CIFAR-10 subset"}
SHAPES: Mapping[str, tuple[int, int, int]] = {"fashion": (1, 28, 28), "cifar": (3, 32, 32)}
"""Of a picture."""
SMALL, LARGE = "small", "large"
_NUM_HELD_OUT = _NUM_TEST = 5_000
_READERS: Mapping[str, Callable[..., Dataset]] = {"fashion": fashion_mnist, "cifar": cifar10_subset}


class Task(NamedTuple):
    """A network and data, by the names in NETS and DATA."""

    net: str
    data: str

    @property
    def title(self) -> str:
        return f"{NETS[self.net]}, {DATA[self.data]}"


TASKS = tuple(Task(net, data) for data in DATA for net in NETS)


class Cell(NamedTuple):
    """What is compared, where."""

    size: str
    task: Task
    optimizer: str
    rule: str
    """One of RULES."""

    @property
    def title(self) -> str:
        return f"{self.size}: {self.task.title}, {self.optimizer}, {RULES[self.rule].title}"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large networks are, and how long they learn from how much."""

    width: int
    """Of the MLP's five hidden layers."""
    channels: tuple[int, int, int, int, int]
    """Of the CNN's convolutions."""
    num_training: int
    """Samples to learn from, the first of the training set."""
    epochs: Mapping[str, int]
    """By network."""


SIZES: Mapping[str, Size] = {
    SMALL: Size(width=128, channels=(8, 8, 16, 16, 32), num_training=5_000, epochs={"mlp": 6, "cnn": 4}),
    LARGE: Size(width=512, channels=(32, 32, 64, 64, 128), num_training=15_000, epochs={"mlp": 20, "cnn": 10}),
}
CELLS = tuple(
    Cell(size, task, optimizer, rule)
    for size in SIZES
    for task in TASKS
    for rule in RULES
    for optimizer in RULES[rule].optimizers
)
"""In the order in which they are run."""


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
def split(data: str, size: str = SMALL) -> Split:
    """The first training samples, the last 5,000 of them, and the first 5,000 to test on; read once in a process."""
    num_training = SIZES[size].num_training
    whole = _READERS[data]("image")
    return Split(
        train_x=whole.train_x[:num_training].clone(),  # so that the rest is freed
        train_y=whole.train_y[:num_training],
        held_out_x=whole.train_x[-_NUM_HELD_OUT:].clone(),
        held_out_y=whole.train_y[-_NUM_HELD_OUT:],
        test_x=whole.test_x[:_NUM_TEST].clone(),
        test_y=whole.test_y[:_NUM_TEST],
    )


def network(task: Task, size: str = SMALL) -> nn.Sequential:
    """Six units, initialised for ReLU.

    MLP: linear layers. CNN: 3 x 3 convolutions with BatchNorm, the first with stride 2, a pooling behind the second and
    the fourth; a linear layer.
    """
    sizes, (channels, height, width) = SIZES[size], SHAPES[task.data]
    if task.net == "mlp":
        widths = (channels * height * width, *(sizes.width,) * 5)
        units = [nn.Sequential(nn.Flatten(), _initialised(nn.Linear(a, b)), nn.ReLU()) for a, b in pairwise(widths)]
        num_features = sizes.width
    else:
        between = enumerate(pairwise((channels, *sizes.channels)))
        units = [_convolution(a, b, index=index) for index, (a, b) in between]
        num_features = sizes.channels[-1] * (height // 8) * (width // 8)
    return nn.Sequential(*units, nn.Sequential(nn.Flatten(), _initialised(nn.Linear(num_features, 10))))


def course_of(net: str, size: str = SMALL) -> Course:
    """Of a run; a cycle of BAdam takes an epoch, as its paper advises for the whole."""
    epoch = SIZES[size].num_training // BATCH_SIZE
    return Course(steps=SIZES[size].epochs[net] * epoch, epoch=epoch, turn=epoch // 6, draw=20)


def make_config(cell: Cell, *, rate: float, seed: int, course: Course | None = None) -> Config:
    """The whole configuration of a run of one stage.

    Args:
        cell: the rule, and where it is run.
        rate: at the first step, before the rule's factors.
        seed: of initial weights, order of the samples and the rule's draws; the first two are the same for all rules.
        course: instead of the size's own.
    """
    course = course or course_of(cell.task.net, cell.size)
    rule = RULES[cell.rule]
    policy = rule.make(course)
    return Config(
        model=partial(network, cell.task, cell.size),
        num_stages=1,
        data=lambda: Data(train=_batches(split(cell.task.data, cell.size))),
        loss=nn.CrossEntropyLoss(),
        optimizer=Sgd(lr=rate, momentum=0.9) if cell.optimizer == "SGD" else Adam(lr=rate),
        schedule=Constant() if rule.anneals else Cosine(total=course.steps),
        participation=policy,
        blocks=blocks_of(policy),
        steps=course.steps,
        seed=seed,
        log_every=course.steps,
        device="cpu",
    )


def _batches(data: Split) -> KeyedBatches:
    return KeyedBatches(data.train_x, data.train_y, batch_size=BATCH_SIZE)


def _convolution(before: int, after: int, *, index: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride=1 if index else 2, padding=1, bias=False)
    pooling = [nn.MaxPool2d(2)] if index in (1, 3) else []
    return nn.Sequential(_initialised(convolution), nn.BatchNorm2d(after), nn.ReLU(), *pooling)


def _initialised(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
