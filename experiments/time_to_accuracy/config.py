"""Which ways of training the same network are raced to an accuracy, and on which data?

A row is a function of a task that returns its whole configuration. `one_...` are plain loops in one process
(`alone.py` runs them); the others put a stage on each of four ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any, Literal, TypeAlias

from torch import nn

from dni import (
    Bernoulli,
    ConditionalSyntheticGradient,
    GradientSource,
    LowRank,
    Synthesizer,
    SyntheticGradient,
    TrueGradient,
)
from experiments.datasets import Dataset, fashion_mnist, mnist
from pipeline import Adam, Config, Data, KeyedBatches

__all__ = [
    "CHOICES",
    "EVALUATE_SAMPLES",
    "NUM_STAGES",
    "ROWS",
    "SAMPLES",
    "SYNTHESIZERS",
    "TASKS",
    "Choice",
    "Family",
    "Row",
    "Task",
    "network",
]

MICROBATCH = 64
NUM_MICROBATCHES = 4
"""Of an update of GPipe and 1F1B: 256 samples."""
NUM_STAGES = 4
"""Of two linear layers each, and of a rank each."""
WIDTH = 512
NUM_LAYERS = 8
"""Linear ones, the output layer counted."""
SAMPLES = 73_728
"""Samples of a run, the same for every row: 1,152 microbatches of 64, 288 batches of 256; 1.23 epochs."""
EVALUATE_SAMPLES = 4_096
"""Samples from one evaluation to the next, of 18."""
NUM_HELD_OUT = 10_000
"""The last of the training set; what was chosen was chosen on them."""
MAX_IN_FLIGHT = (4, 3, 2)
"""As many as a stage has above it, itself counted: what 1F1B and PipeDream need to fill the pipeline."""

DECOUPLED_IN_FLIGHT = (2,)
"""Of the rows that predict. With more, synthesizers learn from gradients of older weights, and ranks that share cores
drift apart as far as they may: with 4, cDNI with syncs fell back towards chance in the middle of runs."""

Family: TypeAlias = Literal["one process", "waits", "late", "decoupled"]
"""one process: a plain loop. waits: the true gradient, of today's weights. late: the true gradient, of weights that
have moved on. decoupled: a predicted gradient, at once."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A data set, and the accuracy on it that the rows are raced to."""

    name: str
    title: str
    target: float
    """A fraction of the test set."""
    held_out: bool = False
    """Evaluate on what is held out of the training set, and never look at the test set."""

    def data(self, batch_size: int) -> Data:
        """The data of a run; an epoch holds whole batches of 256, so that all rows see the same samples."""
        digits = _read(self.name)
        x, y, test_x, test_y = digits.train_x, digits.train_y, digits.test_x, digits.test_y
        if self.held_out:
            test_x, test_y = x[-NUM_HELD_OUT:], y[-NUM_HELD_OUT:]
            x, y = x[:-NUM_HELD_OUT], y[:-NUM_HELD_OUT]
        whole = len(x) - len(x) % (MICROBATCH * NUM_MICROBATCHES)
        return Data(
            train=KeyedBatches(x[:whole], y[:whole], batch_size=batch_size),
            test=list(zip(test_x.split(500), test_y.split(500), strict=True)),
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen for a method on the held-out samples (select.py)."""

    rate: float
    """Adam's, for the network."""
    synthesizer: str | None = None
    """A key of `SYNTHESIZERS`; None where nothing is predicted."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of training."""

    title: str
    family: Family
    method: str
    """Rows of one method learn the same, at different speeds, and share what was chosen."""
    make: Callable[[Task, Choice], Config]
    batch_size: int = MICROBATCH
    """Samples of a microbatch."""

    def config(self, task: Task, choice: Choice | None = None) -> Config:
        """The whole configuration, with what was chosen for the method unless another choice is given."""
        return self.make(task, choice or CHOICES[task.name, self.method])


TASKS: Mapping[str, Task] = {
    "mnist": Task(name="mnist", title="MNIST", target=0.95),
    "fashion": Task(name="fashion", title="Fashion-MNIST", target=0.83),
}

SYNTHESIZERS: Mapping[str, Synthesizer] = {"linear": "linear", "low-rank 64": LowRank(rank=64)}

CHOICES: Mapping[tuple[str, str], Choice] = {
    ("mnist", "batch 64"): Choice(rate=3e-4),
    ("mnist", "batch 256"): Choice(rate=3e-4),
    ("mnist", "recompute"): Choice(rate=1e-4),
    ("mnist", "weights"): Choice(rate=1e-4),
    ("mnist", "dni"): Choice(rate=1e-4, synthesizer="linear"),
    ("mnist", "cdni"): Choice(rate=3e-4, synthesizer="linear"),
    ("mnist", "cdni_sync"): Choice(rate=3e-4, synthesizer="linear"),
    ("fashion", "batch 64"): Choice(rate=3e-4),
    ("fashion", "batch 256"): Choice(rate=1e-3),
    ("fashion", "recompute"): Choice(rate=3e-4),
    ("fashion", "weights"): Choice(rate=1e-4),
    ("fashion", "dni"): Choice(rate=1e-4, synthesizer="linear"),
    ("fashion", "cdni"): Choice(rate=1e-4, synthesizer="linear"),
    ("fashion", "cdni_sync"): Choice(rate=3e-4, synthesizer="linear"),
}
"""By task and method."""


def one_64(task: Task, choice: Choice, *, num_threads: int = 1) -> Config:
    config = _run(task, choice, TrueGradient(), batch_size=MICROBATCH)
    return replace(config, executor="simulate", num_threads=num_threads)


def one_256(task: Task, choice: Choice, *, num_threads: int = 1) -> Config:
    config = _run(task, choice, TrueGradient(), batch_size=MICROBATCH * NUM_MICROBATCHES)
    return replace(config, executor="simulate", num_threads=num_threads)


def gpipe(task: Task, choice: Choice) -> Config:
    """All microbatches of an update forward, then all back."""
    config = _run(task, choice, TrueGradient(), cadence=(NUM_MICROBATCHES,))
    return replace(config, max_in_flight=(NUM_MICROBATCHES,), prefer="activations")


def one_forward_one_backward(task: Task, choice: Choice) -> Config:
    return _run(task, choice, TrueGradient(), cadence=(NUM_MICROBATCHES,), max_in_flight=MAX_IN_FLIGHT)


def late_hold(task: Task, choice: Choice) -> Config:
    """An update waits for the graphs that are held: with one every microbatch the stages take turns."""
    return _run(task, choice, TrueGradient(), max_in_flight=MAX_IN_FLIGHT, stash="hold")


def late_recompute(task: Task, choice: Choice) -> Config:
    """As in Features Replay: the late gradient meets today's weights."""
    return _run(task, choice, TrueGradient(), max_in_flight=MAX_IN_FLIGHT, stash="recompute")


def late_weights(task: Task, choice: Choice) -> Config:
    """As in PipeDream: the late gradient meets the weights of its forward."""
    return _run(task, choice, TrueGradient(), max_in_flight=MAX_IN_FLIGHT, stash="weights")


def dni(task: Task, choice: Choice) -> Config:
    source = SyntheticGradient(_synthesizer(choice), optimizer=Adam(lr=1e-3))
    return _run(task, choice, source, max_in_flight=DECOUPLED_IN_FLIGHT)


def cdni(task: Task, choice: Choice) -> Config:
    source = ConditionalSyntheticGradient(10, _synthesizer(choice), optimizer=Adam(lr=1e-3))
    return _run(task, choice, source, max_in_flight=DECOUPLED_IN_FLIGHT)


def cdni_sync(task: Task, choice: Choice) -> Config:
    """One step in ten, drawn by chance, uses the true gradient all the way down."""
    return replace(cdni(task, choice), sync=Bernoulli(0.1))


ROWS: Mapping[str, Row] = {
    "one_64": Row(title="batch 64, 1 thread", family="one process", method="batch 64", make=one_64),
    "one_64_threads": Row(
        title="batch 64, 2 threads", family="one process", method="batch 64", make=partial(one_64, num_threads=2)
    ),
    "one_256": Row(title="batch 256, 1 thread", family="one process", method="batch 256", make=one_256, batch_size=256),
    "one_256_threads": Row(
        title="batch 256, 2 threads",
        family="one process",
        method="batch 256",
        make=partial(one_256, num_threads=2),
        batch_size=256,
    ),
    "gpipe": Row(title="GPipe, 4 x 64", family="waits", method="batch 256", make=gpipe),
    "1f1b": Row(title="1F1B, 4 x 64", family="waits", method="batch 256", make=one_forward_one_backward),
    "late_hold": Row(title="delayed, graph held", family="waits", method="batch 64", make=late_hold),
    "late_recompute": Row(title="delayed, recomputed", family="late", method="recompute", make=late_recompute),
    "late_weights": Row(title="delayed, weights stashed", family="late", method="weights", make=late_weights),
    "dni": Row(title="DNI", family="decoupled", method="dni", make=dni),
    "cdni": Row(title="cDNI", family="decoupled", method="cdni", make=cdni),
    "cdni_sync": Row(title="cDNI, syncs p = 0.1", family="decoupled", method="cdni_sync", make=cdni_sync),
}


def network() -> list[nn.Module]:
    """The stages: two linear layers each, weights drawn as He et al. 2015 have it for ReLU, biases zero."""
    widths = [784, *[WIDTH] * (NUM_LAYERS - 1), 10]
    layers = [layer for before, after in pairwise(widths) for layer in (_linear(before, after), nn.ReLU())][:-1]
    per_stage = 2 * NUM_LAYERS // NUM_STAGES
    return [nn.Sequential(*layers[start : start + per_stage]) for start in range(0, len(layers), per_stage)]


def _linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    layer = nn.Linear(num_inputs, num_outputs)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def _run(
    task: Task, choice: Choice, source: GradientSource, *, batch_size: int = MICROBATCH, **settings: Any
) -> Config:
    return Config(
        model=network,
        data=partial(task.data, batch_size),
        loss=nn.CrossEntropyLoss(),
        source=source,
        steps=SAMPLES // batch_size,
        optimizer=Adam(lr=choice.rate),
        executor="distributed",
        arrival="ready",
        device="cpu",
        evaluate_every=EVALUATE_SAMPLES // batch_size,
        log_every=EVALUATE_SAMPLES // batch_size,
        **settings,
    )


def _synthesizer(choice: Choice) -> Synthesizer:
    assert choice.synthesizer is not None
    return SYNTHESIZERS[choice.synthesizer]


@cache
def _read(name: str) -> Dataset:
    """Read once: a process carries out all runs."""
    return {"mnist": mnist, "fashion": fashion_mnist}[name]()
