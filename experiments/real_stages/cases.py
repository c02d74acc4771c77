"""Which ways of training the same network are compared?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import nn

from dni import ConditionalSyntheticGradient, Linear, LowRank
from pipeline import Config, Data, KeyedBatches, Sgd, prepare

__all__ = [
    "BATCH_SIZE",
    "NUM_CLASSES",
    "WIDTH",
    "Case",
    "Kind",
    "Synthesizer",
    "all_cases",
    "batches",
    "config",
    "find_cut",
    "network",
    "optimizer",
    "source",
]

WIDTH, NUM_LAYERS, NUM_CLASSES, BATCH_SIZE = 1024, 8, 10, 64

Kind: TypeAlias = Literal["ours", "independent", "alone", "1F1B", "one process"]
Synthesizer: TypeAlias = Literal["rank 128", "full rank"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way of training."""

    kind: Kind
    """ours: two ranks, decoupled. independent: two processes that do the same work and tell each other nothing. alone:
    only the upper one of them. 1F1B: torch's schedule. one process: backprop."""
    synthesizer: Synthesizer = "rank 128"
    """Of ours, and of the lower independent process."""
    per_update: int = 1
    """Microbatches per update."""
    first: int
    """The first measured microbatch."""
    microbatches: int
    """How many are measured."""

    @property
    def name(self) -> str:
        """As the table calls it."""
        words = {
            "ours": f"ours, {self.synthesizer} synthesizer",
            "independent": f"two independent processes, {self.synthesizer} synthesizer",
            "alone": "the upper one of them, alone",
            "1F1B": "Schedule1F1B",
            "one process": "one process, backprop",
        }
        return f"{words[self.kind]}, an update every {self.per_update}"

    @property
    def last(self) -> int:
        """The microbatch at whose start the measurement ends."""
        return self.first + self.microbatches

    @property
    def steps(self) -> int:
        """Microbatches in all: as many after the measured ones as before, during which no rank is without work."""
        return self.last + self.first


def all_cases(*, microbatches: int, fill: int) -> list[Case]:
    """In the order they are run."""

    def whole(number: int, per_update: int) -> int:
        return math.ceil(number / per_update) * per_update

    kinds: list[tuple[Kind, Synthesizer, int]] = [
        ("ours", "rank 128", 1),
        ("independent", "rank 128", 1),
        ("1F1B", "rank 128", 8),
        ("ours", "rank 128", 8),
        ("1F1B", "rank 128", 2),
        ("ours", "full rank", 1),
        ("independent", "full rank", 1),
        ("alone", "rank 128", 1),
        ("one process", "rank 128", 1),
    ]
    return [
        Case(
            kind=kind,
            synthesizer=synthesizer,
            per_update=per_update,
            first=whole(fill, per_update),
            microbatches=whole(microbatches, per_update),
        )
        for kind, synthesizer, per_update in kinds
    ]


def network(width: int = WIDTH, num_inputs: int = WIDTH) -> nn.Sequential:
    """Eight times linear and ReLU, and ten outputs; initialised for ReLU, so that a network of this depth learns."""
    widths = [num_inputs, *[width] * NUM_LAYERS]
    layers = list(_layers(widths))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers, nn.Linear(width, NUM_CLASSES))


def source(synthesizer: Synthesizer, *, rate: float = 1e-5) -> ConditionalSyntheticGradient:
    """Of stage 0."""
    return ConditionalSyntheticGradient(
        num_classes=NUM_CLASSES,
        synthesizer=LowRank(128) if synthesizer == "rank 128" else Linear(),
        optimizer=partial(torch.optim.Adam, lr=rate, fused=True),
    )


optimizer = Sgd(lr=1e-4)
"""Of the network, in every case. Noise teaches nothing; this rate and the synthesizers' are so small that nothing grows
out of bounds."""


def batches(width: int = WIDTH) -> KeyedBatches:
    """Noise with random labels: as much work as anything else."""
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(2048, width, generator=generator), torch.randint(NUM_CLASSES, (2048,), generator=generator)
    return KeyedBatches(x, target, batch_size=BATCH_SIZE)


def find_cut(width: int = WIDTH) -> tuple[str, ...]:
    """Where the second stage begins, by measured time with the rank-128 synthesizer counted; so is every case."""
    case = Case(kind="ours", first=0, microbatches=1)
    by_time = replace(config(case, at=(), width=width), num_stages=2, balance="time")
    return prepare(by_time).cut.starts


def config(case: Case, *, at: tuple[str, ...], width: int = WIDTH) -> Config:
    """The case as a run of ours."""
    return Config(
        model=partial(network, width, width),
        data=lambda: Data(train=batches(width)),
        loss=nn.CrossEntropyLoss(),
        source=source(case.synthesizer),
        optimizer=optimizer,
        at=at,
        cadence=(case.per_update,),
        steps=case.steps,
        executor="distributed",
        arrival="ready",
        log_every=case.steps + 1,  # the trace is written at the end, not between
    )


def _layers(widths: list[int]) -> Iterator[nn.Module]:
    for before, after in pairwise(widths):
        yield nn.Linear(before, after)
        yield nn.ReLU()
