"""Which networks learn what, from which sources, and with which rates?

Four stages, cut at every activation. Activations are tanh, so that nothing of the curvature is lost in kinks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from torch import Tensor, nn

from dni import (
    Bernoulli,
    ConditionalSyntheticGradient,
    CurvatureSettings,
    LocalLoss,
    Never,
    StageCurvature,
    cubic_rates,
)
from experiments.datasets import Dataset, fashion_mnist, mnist
from pipeline import Adam, Config, Data, KeyedBatches, Sgd

__all__ = [
    "ARMS",
    "MOMENTUM",
    "SEEDS",
    "SETTINGS",
    "SOURCES",
    "TASKS",
    "Arm",
    "Settings",
    "Split",
    "Task",
    "config",
    "split",
]

SEEDS = (0, 1, 2)
MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all runs have in common."""

    steps: int = 250
    batch_size: int = 100
    num_train: int = 20_000
    """Samples to learn from, the first ones."""
    num_held_out: int = 5_000
    """To choose by, the last ones."""
    period: int = 20
    """Updates from one summary to the next."""
    microbatches: int = 2
    """That a summary is of."""
    ceiling: float = 10.0
    """Greatest rate, before the factor. Times `proposes` it is 1, so that with a factor no step is larger than that of
    SGD with the factor for its learning rate."""
    proposes: float = 0.1
    """Learning rate of the SGD whose steps are scaled."""
    early: int = 50
    """Steps after which, as at the end, what stages see is set beside the true loss."""
    longer: int = 425
    """Steps that arms without curvature are given as well, to spend what it costs: 1.7 times as many."""
    num_compared: int = 1000
    """Training samples on which that is done."""


SETTINGS = Settings()


@dataclass(frozen=True, kw_only=True)
class Task:
    """A network and its data."""

    title: str
    data: Callable[[], Dataset]
    stages: Callable[[], list[nn.Module]]


def mlp() -> list[nn.Module]:
    """784-128-128-128-10."""
    lower = [nn.Sequential(nn.Linear(width, 128), nn.Tanh()) for width in (784, 128, 128)]
    return [*lower, nn.Sequential(nn.Linear(128, 10))]


def convolutional() -> list[nn.Module]:
    """Two convolutions that halve the image, and two linear layers."""
    return [
        nn.Sequential(nn.Conv2d(1, 4, 5, stride=2, padding=2), nn.Tanh()),
        nn.Sequential(nn.Conv2d(4, 8, 5, stride=2, padding=2), nn.Tanh(), nn.Flatten()),
        nn.Sequential(nn.Linear(8 * 7 * 7, 64), nn.Tanh()),
        nn.Sequential(nn.Linear(64, 10)),
    ]


TASKS: Sequence[Task] = (
    Task(title="MLP, MNIST", data=mnist, stages=mlp),
    Task(title="conv net, Fashion-MNIST", data=partial(fashion_mnist, "image"), stages=convolutional),
)

SOURCES: Mapping[str, dict[str, Any]] = {
    "synthetic, never synced": {"source": ConditionalSyntheticGradient(10), "sync": Never()},
    "synthetic, synced at 10 %": {"source": ConditionalSyntheticGradient(10), "sync": Bernoulli(0.1)},
    "local losses": {"source": LocalLoss(10), "sync": Never()},
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way to choose rates, and what of it is tried on held-out samples."""

    title: str
    tried: tuple[float, ...]
    """Learning rates; of the curvature's rates, the factor."""
    by: str = ""
    """Subsets of the curvature; empty: none."""


_FACTORS = (0.003, 0.01, 0.03, 0.1, 0.3)
ARMS: Sequence[Arm] = (
    Arm(title="SGD", tried=(0.003, 0.01, 0.03, 0.1, 0.3)),
    Arm(title="Adam", tried=(0.0001, 0.0003, 0.001, 0.003, 0.01)),
    Arm(title="curvature by stage", tried=_FACTORS, by="stage"),
    Arm(title="curvature by tensor", tried=_FACTORS, by="tensor"),
)
"""SGD, there and under the curvature, has momentum. A stage has one layer, so by layer would be by stage."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """What is learned, what is chosen by, and what is tested on."""

    train_x: Tensor
    train_y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor
    test_x: Tensor
    test_y: Tensor


@cache
def split(task: str, settings: Settings = SETTINGS) -> Split:
    """The parts of a task's data; read once in a process."""
    whole = next(each for each in TASKS if each.title == task).data()
    return Split(
        train_x=whole.train_x[: settings.num_train].clone(),
        train_y=whole.train_y[: settings.num_train],
        held_out_x=whole.train_x[-settings.num_held_out :].clone(),
        held_out_y=whole.train_y[-settings.num_held_out :],
        test_x=whole.test_x,
        test_y=whole.test_y,
    )


def config(task: str, source: str, arm: str, value: float, *, seed: int, settings: Settings = SETTINGS) -> Config:
    """The whole configuration of a run.

    Args:
        task: title of one of TASKS.
        source: one of SOURCES.
        arm: title of one of ARMS.
        value: one that the arm tries.
        seed: of initial weights, order of the samples and syncs.
        settings: what all runs have in common.
    """
    parts = split(task, settings)
    by = next(each for each in ARMS if each.title == arm).by
    return Config(
        model=next(each for each in TASKS if each.title == task).stages,
        data=lambda: Data(train=KeyedBatches(parts.train_x, parts.train_y, batch_size=settings.batch_size)),
        loss=nn.CrossEntropyLoss(),
        optimizer=Adam(lr=value) if arm == "Adam" else Sgd(lr=settings.proposes if by else value, momentum=MOMENTUM),
        curvature=_curvature(by, value, settings) if by else None,
        steps=settings.steps,
        seed=seed,
        device="cpu",
        **SOURCES[source],
    )


def _curvature(by: Any, factor: float, settings: Settings) -> StageCurvature:
    return StageCurvature(
        by=by,
        acts=True,
        microbatches=settings.microbatches,
        settings=CurvatureSettings(
            rule=cubic_rates, period=settings.period, factor=factor, ceiling=settings.ceiling, rate_memory=0.5
        ),
    )
