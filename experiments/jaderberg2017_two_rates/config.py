"""Which two networks are trained, on which clocks, and from what does the fast one learn?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch.nn.functional as F
from torch import Tensor, nn

from dni import (
    ConditionalSyntheticGradient,
    GradientSource,
    LocalLoss,
    OwnLabels,
    Sum,
    SyntheticGradient,
    TrueGradient,
)
from experiments.datasets import Dataset, mnist
from experiments.jaderberg2017_two_rates.streams import NUM_TICKS, TICK, WINDOW, DigitStreams, odd, threes
from pipeline import Adam, Carrying, Config, CostModel, Data

__all__ = ["LATENCIES", "METHODS", "NUM_STREAMS", "STEPS", "Method", "costs", "digits", "networks"]

NUM_STREAMS = 64
STEPS = 6400
"""Digits of each stream: 400 windows."""
LATENCIES = (0.0, 2.0, 8.0)
"""Of a message between the two networks, in forwards of one of them."""
_HIDDEN, _STATE = 128, 64


def _own_task() -> GradientSource:
    return OwnLabels(LocalLoss(TICK + 1), odd)


@dataclass(frozen=True, kw_only=True)
class Method:
    """What the fast network learns from."""

    title: str
    source: Callable[[], GradientSource]
    waits: bool = False
    """Whether the fast network waits at each tick of the slow one for its gradient."""

    def config(self, *, seed: int = 0, steps: int = STEPS, latency: float = 0.0) -> Config:
        """The whole configuration of a run.

        Args:
            seed: of initial weights and digits.
            steps: digits of each stream.
            latency: of a message in virtual time.
        """
        whole = digits()
        return Config(
            model=networks,
            data=lambda: Data(
                train=DigitStreams(whole.train_x, whole.train_y, num_streams=NUM_STREAMS, seed=seed),
            ),
            loss=count_threes,
            source=self.source(),
            send_every=(TICK,),
            optimizer=Adam(lr=1e-3),
            steps=steps,
            seed=seed,
            delay=(1 if self.waits else 4,),
            costs=costs(latency),
            device="cpu",
        )


METHODS: Mapping[str, Method] = {
    "apart": Method(title="own task only, no gradient crosses", source=_own_task),
    "true": Method(title="true gradient, waited for", source=lambda: Sum(_own_task(), TrueGradient()), waits=True),
    "synthetic": Method(title="synthetic gradient", source=lambda: Sum(_own_task(), SyntheticGradient())),
    "conditional": Method(
        title="synthetic gradient, conditional on the threes",
        source=lambda: Sum(_own_task(), OwnLabels(ConditionalSyntheticGradient(WINDOW + 1), threes)),
    ),
}
"""In the order of the table."""


def networks() -> list[nn.Module]:
    """The fast one, whose state is its message and begins anew at each tick, and the slow one, a tick at a time."""
    fast = nn.Sequential(nn.Linear(784, _HIDDEN), nn.ReLU(), Carrying(nn.GRUCell(_HIDDEN, _STATE), period=TICK))
    slow = nn.Sequential(Carrying(nn.GRUCell(_STATE, _STATE), period=NUM_TICKS), nn.Linear(_STATE, WINDOW + 1))
    return [fast, slow]


def count_threes(output: Tensor, target: Tensor) -> Tensor:
    """The slow network's loss, summed over samples."""
    return F.cross_entropy(output, threes(target), reduction="sum")


def costs(latency: float) -> CostModel:
    """Virtual time: a forward takes 1, a backward 2, a source's learning 1/2, an update nothing."""
    return CostModel(forward_s=1.0, backward_s=2.0, learn_s=0.5, update_s=0.0, message_s=latency)


@cache
def digits() -> Dataset:
    """The data, read once in a process."""
    return mnist()
