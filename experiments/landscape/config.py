"""Which networks are looked at, how do they learn, and when?

A method is a source of gradients with a sync policy. Everything else is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise, product

from torch import Tensor, nn

from dni import (
    Bernoulli,
    ConditionalSyntheticGradient,
    GradientSource,
    LocalLoss,
    Never,
    SyncPolicy,
    SyntheticGradient,
    TrueGradient,
)
from experiments.datasets import mnist
from pipeline import Adam, Config, Data, KeyedBatches

__all__ = [
    "FULL",
    "METHODS",
    "NUM_STAGES",
    "SEEDS",
    "SETTINGS",
    "Job",
    "Method",
    "Settings",
    "Split",
    "config",
    "jobs",
    "split",
]

NUM_STAGES = 4
NUM_CLASSES = 10
SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Method:
    """Where the stages below the last get their gradients from."""

    source: GradientSource
    sync: SyncPolicy = field(default_factory=Never)
    bootstraps: bool = True
    """Whether the source learns from the gradient that the stage above sends, so that it has a target of its own."""


METHODS: Mapping[str, Method] = {
    "true gradient": Method(source=TrueGradient(), bootstraps=False),
    "synthetic with labels": Method(source=ConditionalSyntheticGradient(NUM_CLASSES)),
    "with labels, synced": Method(source=ConditionalSyntheticGradient(NUM_CLASSES), sync=Bernoulli(0.1)),
    "synthetic, no labels": Method(source=SyntheticGradient()),
    "local loss": Method(source=LocalLoss(NUM_CLASSES), bootstraps=False),
}
"""By the name of a row. Synthesizers and the heads of local losses are linear and learn by Adam at 1e-3."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all runs share. A test has smaller ones."""

    width: int = 128
    """Of each of the three hidden layers."""
    batch_size: int = 128
    checkpoints: tuple[int, ...] = (100, 500, 2000)
    """Steps after which a network is looked at, all multiples of the first; the last ends the run."""
    num_slice_samples: int = 1024
    """Training samples that losses along slices are of."""
    num_plane_samples: int = 512
    num_held_out: int = 2048
    """Held-out samples that sources are graded on."""
    num_fit_samples: int = 12_000
    """Training samples that synthesizers are fitted to anew."""
    batch_sizes: tuple[int, ...] = tuple(2**k for k in range(5, 14))
    """B: samples of a gradient estimate, each twice the one before."""
    num_estimates: int = 10
    """Of each B, where there are samples enough. (Ilyas et al. 2020 take 10.)"""


SETTINGS = Settings()


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run, looked at as it goes."""

    method: str
    seed: int
    rate: float = 3e-4
    """Of the network's optimiser."""
    sync: float | None = None
    """Probability of a sync instead of the method's own."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """MNIST: 50,000 to train on, 10,000 held out, 10,000 to test on."""

    train_x: Tensor
    train_y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor
    test_x: Tensor
    test_y: Tensor


def jobs() -> list[Job]:
    """What the tables need."""
    return [Job(method=method, seed=seed) for seed, method in product(SEEDS, METHODS)]


FULL = [
    Job(method="with labels, synced", seed=seed, rate=rate, sync=sync)
    for seed, rate, sync in product(SEEDS, (1e-4, 3e-4, 1e-3), (0.01, 0.03, 0.3))
]
"""How often the truth is seen against how fast the network moves."""


def config(job: Job, settings: Settings = SETTINGS) -> Config:
    """The whole configuration of a run.

    Each stage is Linear, LayerNorm, ReLU; the last is Linear. The norm is one over units, so the loss of a batch is the
    mean of its samples' losses, in training as in evaluation. Adam keeps no mean of gradients: a step is a function of
    today's gradient and of the scale of those before.
    """
    method = METHODS[job.method]
    return Config(
        model=lambda: _network(settings.width),
        data=lambda: Data(
            train=KeyedBatches(split().train_x, split().train_y, batch_size=settings.batch_size),
            test=[(split().test_x, split().test_y)],
        ),
        loss=nn.CrossEntropyLoss(),
        source=method.source,
        sync=method.sync if job.sync is None else Bernoulli(job.sync),
        steps=settings.checkpoints[-1],
        seed=job.seed,
        optimizer=Adam(lr=job.rate, betas=(0.0, 0.999)),
        delay=(1,),
        device="cpu",
        checkpoint_every=settings.checkpoints[0],
        keep_last=settings.checkpoints[-1] // settings.checkpoints[0] + 1,
        log_every=settings.checkpoints[0],
        measure_every=0,
    )


@cache
def split() -> Split:
    """Read once a process."""
    data = mnist()
    train, held_out = slice(0, 50_000), slice(50_000, 60_000)
    return Split(
        train_x=data.train_x[train],
        train_y=data.train_y[train],
        held_out_x=data.train_x[held_out],
        held_out_y=data.train_y[held_out],
        test_x=data.test_x,
        test_y=data.test_y,
    )


def _network(width: int) -> list[nn.Module]:
    sizes = [784] + [width] * (NUM_STAGES - 1)
    hidden = [
        nn.Sequential(nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU()) for before, after in pairwise(sizes)
    ]
    return [*hidden, nn.Linear(width, NUM_CLASSES)]
