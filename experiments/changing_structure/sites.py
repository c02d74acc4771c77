"""Where is structure changed: on which data, in a network of which size, in a run of how many steps?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from torch import Tensor

from experiments.datasets import Dataset, cifar10, cifar10_subset, fashion_mnist, mnist

__all__ = ["BATCH_SIZE", "DATA", "EPOCHS", "NETS", "SIZES", "TASKS", "Site", "Size", "Split", "Task", "split"]

BATCH_SIZE = 128
EPOCHS = 9
"""Of a run, where samples are equal: eight ends of epochs at which something can change and be trained on."""
_NUM_HELD_OUT = 5_000
"""The last of the training samples."""
NETS: Mapping[str, str] = {"mlp": "MLP", "cnn": "CNN", "kernels": "CNN"}
DATA: Mapping[str, str] = {"mnist": "MNIST", "fashion": "Fashion-MNIST", "cifar": "CIFAR-10 subset"}


class Task(NamedTuple):
    """A network and data, by the names in NETS and DATA."""

    net: str
    data: str

    @property
    def title(self) -> str:
        return f"{NETS[self.net]}, {DATA[self.data]}"

    @property
    def image(self) -> tuple[int, int]:
        """Channels and side of a picture."""
        return (3, 32) if self.data == "cifar" else (1, 28)


TASKS = (Task("mlp", "mnist"), Task("mlp", "fashion"), Task("cnn", "cifar"))
"""Of every question but that of kernels."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large networks and data are."""

    widths: Mapping[str, tuple[int, int]]
    """Units of a hidden layer, by network: before and after pruning."""
    grown: Mapping[str, tuple[int, int]]
    """The same before and after growth."""
    kernel_widths: tuple[int, int]
    """Channels of the networks with kernels."""
    num_training: int
    """Samples to learn from, the first of the training set."""
    readers: Mapping[str, Callable[..., Dataset]]
    """By the name of the data."""

    @property
    def epoch(self) -> int:
        """Steps of an epoch."""
        return self.num_training // BATCH_SIZE


SIZES: Mapping[str, Size] = {
    "small": Size(
        widths={"mlp": (128, 16), "cnn": (24, 8)},
        grown={"mlp": (16, 32), "cnn": (8, 16)},
        kernel_widths=(6, 12),
        num_training=12_000,
        readers={"mnist": mnist, "fashion": fashion_mnist, "cifar": cifar10_subset},
    ),
    "large": Size(
        widths={"mlp": (1024, 128), "cnn": (96, 32)},
        grown={"mlp": (128, 256), "cnn": (48, 96)},
        kernel_widths=(32, 64),
        num_training=45_000,
        readers={"mnist": mnist, "fashion": fashion_mnist, "cifar": cifar10},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Site:
    """What an arm builds its network, its events and its schedule for."""

    task: Task
    size: str = "small"
    steps: int
    """Microbatches of the whole run."""

    @property
    def sizes(self) -> Size:
        return SIZES[self.size]

    @property
    def middle(self) -> int:
        """The step after which half of the run is over."""
        return self.steps // 2 - 1

    def epoch_end(self, epoch: int) -> int:
        """The last step of an epoch, counted from 0."""
        return (epoch + 1) * self.sizes.epoch - 1


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
