"""Which ways of using late gradients are compared, at which staleness, on which network?

Every stage but the last learns from gradients that are `staleness` updates late: an update at every microbatch, and a
delay of `staleness` + 1 at every boundary, in fixed order. So a run is the same on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from torch import Tensor, nn

from dni import (
    Correction,
    DiscrepancyCorrection,
    GradientSource,
    NesterovLookahead,
    ShrunkGradient,
    TrueGradient,
    WeightPrediction,
)
from experiments.datasets import fashion_mnist
from pipeline import Config, Data, KeyedBatches, Sgd
from pipeline.stages.stash import StashPolicy

__all__ = ["METHODS", "RATES", "STALENESS", "STEPS", "Method", "Split", "network", "split"]

BATCH_SIZE = 64
STEPS = 1500
"""1.9 epochs."""
STALENESS = (1, 2, 4, 8)
"""In updates."""
MOMENTUM = 0.9
RATES = (0.003, 0.01, 0.03, 0.1)
NUM_HELD_OUT = 10_000
"""The last of the training set: rates are chosen on them."""
_WIDTHS = (784, 256, 256, 256, 10)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way of using late gradients."""

    title: str
    stash: StashPolicy
    correction: Correction | None = None
    source: Callable[[], GradientSource] = TrueGradient
    coasts: bool = False
    """Whether the correction brings the momentum, so that the optimiser of a stage that it corrects has none."""
    late: bool = True
    """False: every gradient is of the weights of today, at staleness 0 only."""

    def config(self, *, staleness: int, rate: float, seed: int = 0, steps: int = STEPS) -> Config:
        """The whole configuration of a run.

        Args:
            staleness: of the gradients of all stages but the last, in updates.
            rate: of SGD with momentum 0.9. SGD without it takes ten times as much, so that a gradient moves the weights
                as far in the end.
            seed: of initial weights and order of the samples.
            steps: microbatches of the run.
        """
        own = Sgd(lr=rate, momentum=MOMENTUM)
        lower = Sgd(lr=rate / (1 - MOMENTUM)) if self.coasts else own
        return Config(
            model=network,
            data=lambda: Data(train=KeyedBatches(split().train_x, split().train_y, batch_size=BATCH_SIZE)),
            loss=nn.CrossEntropyLoss(),
            source=self.source(),
            optimizer=(*[lower] * (len(_WIDTHS) - 2), own),
            steps=steps,
            seed=seed,
            stash=self.stash,
            correction=self.correction,
            delay=(staleness + 1,),
            device="cpu",
        )


METHODS: Mapping[str, Method] = {
    "backprop": Method(title="backprop, no delay", stash="hold", late=False),
    "stash": Method(title="weights stashed", stash="weights"),
    "shrink": Method(title="weights stashed, shrunk, β = 0.5", stash="weights", source=lambda: ShrunkGradient(0.5)),
    "recompute": Method(title="recomputed", stash="recompute"),
    "graph": Method(title="today's weights, old activations", stash="graph"),
    "prediction": Method(title="weight prediction", stash="graph", correction=WeightPrediction(momentum=0.0)),
    "look_ahead": Method(
        title="Nesterov look-ahead", stash="graph", correction=NesterovLookahead(momentum=MOMENTUM), coasts=True
    ),
    "look_ahead_stash": Method(
        title="the same, weights stashed", stash="weights", correction=NesterovLookahead(momentum=MOMENTUM), coasts=True
    ),
    "discrepancy": Method(
        title="discrepancy correction", stash="graph", correction=DiscrepancyCorrection(anneal=STEPS // 4)
    ),
}
"""In the order of the tables."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Fashion-MNIST, with some of the training set held out."""

    train_x: Tensor
    """(N, 784)"""
    train_y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor
    test_x: Tensor
    test_y: Tensor


@cache
def split() -> Split:
    """The data, read once in a process."""
    whole = fashion_mnist()
    return Split(
        train_x=whole.train_x[:-NUM_HELD_OUT],
        train_y=whole.train_y[:-NUM_HELD_OUT],
        held_out_x=whole.train_x[-NUM_HELD_OUT:],
        held_out_y=whole.train_y[-NUM_HELD_OUT:],
        test_x=whole.test_x,
        test_y=whole.test_y,
    )


def network() -> list[nn.Module]:
    """Four stages of a linear layer each, 784-256-256-256-10, with ReLU between them; PyTorch's own initial weights."""
    layers = [nn.Sequential(nn.Linear(before, after), nn.ReLU()) for before, after in pairwise(_WIDTHS)]
    return [*layers[:-1], layers[-1][0]]
