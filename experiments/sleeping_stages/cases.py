"""Which methods are compared, on which stages?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import nn

from dni import Bernoulli, ConditionalSyntheticGradient, Never
from experiments.sleeping_stages.sleeper import SleepingStage
from pipeline import Config, CostModel, Data, KeyedBatches
from pipeline.stages.stash import StashPolicy

__all__ = [
    "BACKWARD_S",
    "BATCH_SIZE",
    "DECOUPLED",
    "FEW_SYNCS",
    "FORWARD_S",
    "NOMINAL_S",
    "PAUSE_S",
    "SLOW",
    "WIDTH",
    "Case",
    "Group",
    "Sizes",
    "all_cases",
    "batches",
    "config",
    "sleeper",
]

WIDTH, BATCH_SIZE, NUM_CLASSES = 16, 8, 10
FORWARD_S, BACKWARD_S = 0.010, 0.020
NOMINAL_S = FORWARD_S + BACKWARD_S
"""A stage's own time for a microbatch, when it is not slowed."""
SLOW = 2.5
DECOUPLED = "decoupled, no syncs"
FEW_SYNCS = "decoupled, syncs with p = 0.01, hold"
"""The two that tell the simulator what operations and messages cost."""
SEED = 28
"""Of the syncs: the 200 measured microbatches hold as many as are expected, 2 and 20."""
PAUSE_S = 2.0

Group: TypeAlias = Literal["equal", "slow", "paused"]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is run."""

    microbatches: int = 500
    """Measured of a run of ours; without the fill and what comes after."""
    synced: int = 200
    """The same, of runs with syncs, and around a pause (torch's too)."""
    slowed: int = 80
    """The same, with a slow stage."""
    torch: int = 64
    """The same, of torch's schedules, whose updates are all alike; rounded up to whole updates."""
    fill: int = 20
    """Microbatches before the measured ones, rounded up to whole updates."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One method on one kind of stages."""

    group: Group
    """equal: all stages alike. slow: the one in the middle takes 2.5 times as long. paused: it sleeps 2 s once."""
    method: str
    """As the table calls it."""
    schedule: str = ""
    """A class of torch.distributed.pipelining; empty: ours."""
    per_update: int = 1
    """Microbatches per update."""
    chunks: int = 1
    """Stages of each rank, which share its time."""
    sync: float = 0.0
    """Probability of a sync."""
    stash: StashPolicy = "hold"
    max_in_flight: int = 4
    first: int
    """The first measured microbatch: those before fill the pipeline."""
    microbatches: int
    """How many are measured."""

    @property
    def name(self) -> str:
        """Of the case among all."""
        return f"{self.group}: {self.method}"

    @property
    def last(self) -> int:
        """The microbatch at whose start the measurement ends."""
        return self.first + self.microbatches

    @property
    def num_updates(self) -> int:
        """Of torch's schedules; the last one is not measured."""
        return self.last // self.per_update + 1

    @property
    def steps(self) -> int:
        """Of ours: a few beyond the measured ones, during which no stage is without work."""
        return self.last + self.first

    @property
    def undisturbed(self) -> int:
        """The microbatch at whose start the undisturbed part of a run with a pause ends: a quarter, whole updates."""
        return self.first + self.microbatches // 4 // self.per_update * self.per_update

    @property
    def pause_at(self) -> int:
        """The microbatch at which the paused stage sleeps, in the middle of an update."""
        return self.undisturbed + max(self.per_update // 2, 4)

    def nominal_s(self, rank: int, num_ranks: int) -> float:
        """A rank's own time for a microbatch, as it sleeps."""
        return NOMINAL_S * self.factor(rank, num_ranks)

    def factor(self, rank: int, num_ranks: int) -> float:
        """How much longer a rank's operations take."""
        return SLOW if self.group == "slow" and rank == num_ranks // 2 else 1.0

    def pause_s(self, rank: int, num_ranks: int) -> float:
        """How long a rank pauses, once."""
        return PAUSE_S if self.group == "paused" and rank == num_ranks // 2 else 0.0


def all_cases(num_ranks: int, sizes: Sizes) -> list[Case]:
    """Everything that is compared on so many ranks, in the order it is run: torch and ours in turns.

    Two stages are there for the simulator's sake, and run little.
    """
    theirs, ours = list(_theirs(sizes)), list(_ours(sizes))
    if num_ranks == 2:
        return [theirs[0], *(case for case in ours if case.stash == "hold")]
    paired = [case for pair in zip(theirs, ours, strict=False) for case in pair]
    return [*paired, *theirs[len(ours) :], *ours[len(theirs) :], *_slow(sizes), *_paused(sizes)]


def batches() -> KeyedBatches:
    """Noise with random labels."""
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(1024, WIDTH, generator=generator), torch.randint(NUM_CLASSES, (1024,), generator=generator)
    return KeyedBatches(x, target, batch_size=BATCH_SIZE)


def sleeper(case: Case, *, rank: int, num_ranks: int, chunk: int = 0, asleep: bool = True) -> SleepingStage:
    """A stage of a rank; `asleep=False`: one that does not sleep, for the simulator."""
    seconds = case.factor(rank, num_ranks) / case.chunks if asleep else 0.0
    return SleepingStage(
        WIDTH,
        forward_s=FORWARD_S * seconds,
        backward_s=BACKWARD_S * seconds,
        pause_s=case.pause_s(rank, num_ranks) if asleep and chunk == 0 else 0.0,
        pause_at=case.pause_at,
        chunk=chunk,
    )


def config(case: Case, num_ranks: int, *, costs: CostModel | None = None) -> Config:
    """The case as a run of ours, one stage per rank; with `costs` simulated, so that nothing sleeps."""
    asleep = costs is None
    return Config(
        model=lambda: [sleeper(case, rank=r, num_ranks=num_ranks, asleep=asleep) for r in range(num_ranks)],
        data=lambda: Data(train=batches()),
        loss=nn.CrossEntropyLoss(),
        source=ConditionalSyntheticGradient(num_classes=NUM_CLASSES),
        sync=Bernoulli(case.sync) if case.sync else Never(),
        stash=case.stash,
        max_in_flight=(case.max_in_flight,),
        steps=case.steps,
        seed=SEED,
        executor="distributed" if asleep else "simulate",
        arrival="ready",
        costs=costs or CostModel(),
        log_every=case.steps + 1,  # the trace is written at the end, not between
        check_every=0,
        measure_every=0,  # a second backward would sleep again
    )


def _theirs(sizes: Sizes) -> Iterator[Case]:
    kinds = (
        ("1F1B", "Schedule1F1B", 1),
        ("GPipe", "ScheduleGPipe", 1),
        ("interleaved 1F1B", "ScheduleInterleaved1F1B", 2),
        ("interleaved zero bubble", "ScheduleInterleavedZeroBubble", 2),
        ("ZBV zero bubble", "ScheduleZBVZeroBubble", 2),
    )
    for per_update in (8, 32):
        for method, schedule, chunks in kinds:
            yield _scheduled(sizes, "equal", method, schedule, per_update=per_update, chunks=chunks)


def _scheduled(
    sizes: Sizes, group: Group, method: str, schedule: str, *, per_update: int, chunks: int = 1, least: int = 0
) -> Case:
    def whole(microbatches: int) -> int:
        return math.ceil(microbatches / per_update) * per_update

    return Case(
        group=group,
        method=f"{method}, {per_update} microbatches per update",
        schedule=schedule,
        per_update=per_update,
        chunks=chunks,
        first=whole(sizes.fill),
        microbatches=whole(max(sizes.torch, least)),
    )


def _ours(sizes: Sizes) -> Iterator[Case]:
    alone = Case(group="equal", method=DECOUPLED, first=sizes.fill, microbatches=sizes.microbatches)
    yield alone
    stashes: tuple[StashPolicy, ...] = ("hold", "recompute", "weights")
    for sync in (0.01, 0.1):
        for stash in stashes:
            method = f"decoupled, syncs with p = {sync}, {stash}"
            yield replace(alone, method=method, sync=sync, stash=stash, microbatches=sizes.synced)


def _slow(sizes: Sizes) -> Iterator[Case]:
    for per_update in (8, 32):
        yield _scheduled(sizes, "slow", "1F1B", "Schedule1F1B", per_update=per_update)
    yield Case(group="slow", method=DECOUPLED, first=sizes.fill, microbatches=sizes.slowed)


def _paused(sizes: Sizes) -> Iterator[Case]:
    yield _scheduled(sizes, "paused", "1F1B", "Schedule1F1B", per_update=8, least=sizes.synced)
    alone = Case(group="paused", method="", first=sizes.fill, microbatches=sizes.synced)
    for bound in (4, 96):
        yield replace(alone, method=f"decoupled, at most {bound} in flight", max_in_flight=bound)
