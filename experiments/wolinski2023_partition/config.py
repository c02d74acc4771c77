"""Which networks, in which ways, with which settings?

A task is a network on a data set; an arm a way to train it, tried with some settings, for each arm of a task as many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from math import inf, sqrt
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from dni import ParameterPartition, Summary, cubic_rates, diagonal_rates, newton_rates
from experiments.datasets import cifar10_subset, mnist
from experiments.wolinski2023_partition.bounded import bounded_rates
from experiments.wolinski2023_partition.networks import lenet, mlp, vgg11

__all__ = [
    "ADAM",
    "ARMS",
    "FIRST_ORDER",
    "FULL",
    "SGD",
    "TASKS",
    "Arm",
    "Setting",
    "Split",
    "Task",
    "arms_of",
    "rule_of",
    "split",
    "task_named",
]

Source: TypeAlias = Literal["CIFAR-10", "MNIST"]

FULL, ADAM, SGD = "full", "Adam", "SGD"
FIRST_ORDER = (ADAM, SGD)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is tried of an arm."""

    rate: float
    """Of Adam and SGD the learning rate; of the others the factor of all rates, the paper's lambda_1."""
    strength: float | None = None
    """Of cubic regularisation, the paper's lambda_int; None: the arm has none."""

    def __str__(self) -> str:
        return f"{self.rate:g}" if self.strength is None else f"{self.strength:g}, {self.rate:g}"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train."""

    title: str
    partition: Callable[[Mapping[str, torch.Size]], ParameterPartition] | None = None
    """None: a method of first order."""
    cubic: bool = False
    alone: bool = False
    """Whether each subset is taken by itself: only the diagonal of H."""
    bounded: bool = False
    """Whether the model is minimised over rates from zero on, instead of leaving out those below it afterwards."""
    memory: float = 0.0
    """Share of the old ones in the running average of summaries."""
    floor: float = 0.0
    """Rates below it are it."""


ARMS: Mapping[str, Arm] = {
    FULL: Arm(title="full H, per tensor, cubic", partition=ParameterPartition.by_tensor, cubic=True),
    "bounded": Arm(
        title="full H, per tensor, cubic, rates from 0 on",
        partition=ParameterPartition.by_tensor,
        cubic=True,
        bounded=True,
    ),
    "signed": Arm(
        title="full H, per tensor, cubic, negative rates used",
        partition=ParameterPartition.by_tensor,
        cubic=True,
        floor=-inf,
    ),
    "averaged": Arm(
        title="full H, per tensor, cubic, summaries averaged",
        partition=ParameterPartition.by_tensor,
        cubic=True,
        memory=0.8,
    ),
    "newton": Arm(title="full H, per tensor", partition=ParameterPartition.by_tensor),
    "diagonal": Arm(title="diagonal, per tensor", partition=ParameterPartition.by_tensor, alone=True),
    "diagonal cubic": Arm(
        title="diagonal, per tensor, cubic", partition=ParameterPartition.by_tensor, cubic=True, alone=True
    ),
    "layer": Arm(title="full H, per layer, cubic", partition=ParameterPartition.by_layer, cubic=True),
    "one": Arm(title="S = 1 (Cauchy)", partition=ParameterPartition.as_one),
    ADAM: Arm(title="Adam"),
    SGD: Arm(title="SGD, momentum 0.9"),
}

_CUBIC = tuple(Setting(rate=rate, strength=strength) for strength, rate in ((1, 0.1), (1, 0.3), (10, 1.0)))
_FACTORS = tuple(Setting(rate=rate) for rate in (0.03, 0.1, 0.3))
_LARGER_FACTORS = tuple(Setting(rate=rate) for rate in (0.1, 0.3, 1.0))
_ADAM = tuple(Setting(rate=rate) for rate in (3e-4, 1e-3, 3e-3))
_SGD = tuple(Setting(rate=rate) for rate in (1e-2, 3e-2, 1e-1))


@dataclass(frozen=True, kw_only=True)
class Task:
    """A network on a data set, and how long and with what it is trained."""

    name: str
    network: Callable[[], nn.Sequential]
    gain: float
    """sigma_w of the initial weights."""
    data: Source
    steps: int
    seeds: tuple[int, ...]
    """The first is for what is tried."""
    summary_size: int
    """Samples of the batch that a summary is of."""
    tries: Mapping[str, tuple[Setting, ...]]
    """By arm."""
    finalists: tuple[str, ...] = (FULL, "bounded", "diagonal", "layer", "one")
    """Arms with curvature that are run with the other seeds too."""
    traced: tuple[str, ...]
    """Arms along whose course eta* is looked at."""
    trace_every: int
    all_traced: bool = False
    """At every rate tried; otherwise at the best."""
    batch_size: int = 100
    period: int = 10
    """Steps from one summary to the next."""
    num_samples: int = 18_000
    """To learn from."""
    num_held_out: int = 2_000
    """To choose by: the next samples of the training set."""
    steps_per_point: int = 180
    """Steps from one evaluation to the next, up to `steps`."""
    samples_at_once: int = 100
    """Of a summary: what goes through the network together."""
    runs: bool = True
    """Whether it is run without --full."""


def arms_of(task: Task) -> list[str]:
    """In the order of ARMS."""
    return [name for name in ARMS if name in task.tries]


_DEEP_TRIES = {
    FULL: _CUBIC,
    "one": _LARGER_FACTORS,
    ADAM: tuple(Setting(rate=rate) for rate in (1e-4, 3e-4, 1e-3)),
    SGD: tuple(Setting(rate=rate) for rate in (3e-3, 1e-2, 3e-2)),
}
_MLP = Task(
    name="MLP, MNIST",
    network=partial(mlp, (784, 1024, 200, 100, 10), nn.Tanh),
    gain=1.0,
    data="MNIST",
    steps=360,
    seeds=(0, 1, 2),
    summary_size=1000,
    tries={
        FULL: _CUBIC,
        "bounded": _CUBIC,
        "signed": _CUBIC,
        "averaged": _CUBIC,
        "newton": _FACTORS,
        "diagonal": _FACTORS,
        "diagonal cubic": _CUBIC,
        "layer": _CUBIC,
        "one": _LARGER_FACTORS,
        ADAM: _ADAM,
        SGD: _SGD,
    },
    traced=(SGD, ADAM),
    trace_every=20,
    all_traced=True,
    samples_at_once=250,
)
_LENET = Task(
    name="LeNet, CIFAR-10",
    network=lenet,
    gain=1.0,
    data="CIFAR-10",
    steps=360,
    seeds=(0, 1, 2),
    summary_size=1000,
    tries={
        FULL: (*_CUBIC, Setting(rate=0.3, strength=10)),  # the best of the others was at the edge
        "bounded": _CUBIC,
        "diagonal": _FACTORS,
        "layer": _CUBIC,
        "one": _LARGER_FACTORS,
        ADAM: _ADAM,
        SGD: _SGD,
    },
    traced=(SGD, ADAM),
    trace_every=20,
)
_VGG = Task(
    name="VGG-11' / 4, CIFAR-10",
    network=partial(vgg11, divisor=4),
    gain=sqrt(2),
    data="CIFAR-10",
    steps=200,
    seeds=(0,),
    summary_size=100,
    tries={arm: settings[:2] for arm, settings in _DEEP_TRIES.items()} | {ADAM: _ADAM[:2], SGD: _SGD[:2]},
    traced=(ADAM,),
    trace_every=10,
    steps_per_point=100,
)
_DEEP = Task(
    name="MLP 20 x 256, CIFAR-10",
    network=partial(mlp, (3072, *[256] * 20, 10), nn.ELU),
    gain=sqrt(2),
    data="CIFAR-10",
    steps=200,
    seeds=(0,),
    summary_size=250,
    tries=_DEEP_TRIES | {"bounded": _CUBIC, "diagonal": _FACTORS},
    traced=(ADAM,),
    trace_every=10,
    steps_per_point=100,
    samples_at_once=250,
)
TASKS = (
    _MLP,
    _LENET,
    _DEEP,
    _VGG,
    replace(
        _VGG,
        name="VGG-11', CIFAR-10",
        network=partial(vgg11, divisor=1),
        steps=540,
        summary_size=1000,
        steps_per_point=180,
        runs=False,
    ),
    replace(
        _DEEP,
        name="MLP 20 x 1024, CIFAR-10",
        network=partial(mlp, (3072, *[1024] * 20, 10), nn.ELU),
        steps=540,
        summary_size=1000,
        steps_per_point=180,
        runs=False,
    ),
)


def task_named(name: str) -> Task:
    """The task of that name."""
    return next(task for task in TASKS if task.name == name)


def rule_of(arm: Arm, setting: Setting) -> Callable[[Summary], Tensor]:
    """Summary -> rates, (S,), without the factor."""
    if not arm.cubic:
        return diagonal_rates if arm.alone else newton_rates
    assert setting.strength is not None
    rule = partial(bounded_rates if arm.bounded else cubic_rates, strength=setting.strength)
    return (lambda summary: rule(_alone(summary))) if arm.alone else rule


def _alone(summary: Summary) -> Summary:
    """Without what the subsets do to each other."""
    return replace(summary, hessian=torch.diag(summary.hessian.diagonal()))


@dataclass(frozen=True, kw_only=True)
class Split:
    """Samples to learn from, to choose by, and to test on."""

    train_x: Tensor
    """(N, *F)"""
    train_y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor
    test_x: Tensor
    test_y: Tensor


def split(task: Task) -> Split:
    """The first samples of the training set, the next ones, and the test set."""
    return _split(task.data, task.num_samples, task.num_held_out, flat=isinstance(task.network()[0], nn.Linear))


@cache
def _split(data: Source, num_samples: int, num_held_out: int, *, flat: bool) -> Split:
    whole = (mnist if data == "MNIST" else cifar10_subset)("flat" if flat else "image")
    stop = num_samples + num_held_out
    return Split(
        train_x=whole.train_x[:num_samples].clone(),
        train_y=whole.train_y[:num_samples],
        held_out_x=whole.train_x[num_samples:stop].clone(),
        held_out_y=whole.train_y[num_samples:stop],
        test_x=whole.test_x,
        test_y=whole.test_y,
    )
