"""What is a run? All of its settings, in one frozen value.

A run is a Python function that returns a `Config`; a variant calls another and uses `dataclasses.replace`. The fields
that are Python objects (model, data, loss, source) are set there; the others are also command-line options.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
import tyro
from torch import nn
from torch.optim import Optimizer

from dni import (
    BlockCadence,
    Constant,
    Correction,
    Event,
    GradientSource,
    InputSource,
    Never,
    Participation,
    Periodic,
    RateRule,
    ReceivedInput,
    Schedule,
    StageCurvature,
    SyncPolicy,
    TrueGradient,
    UpdateProbability,
    WeightDecay,
)
from pipeline.configuration.partition import Balance, Partition
from pipeline.data.feed import Batch
from pipeline.errors import ConfigurationError
from pipeline.learners.idle import IdleBatchNorm
from pipeline.learners.updater import OptimizerFactory
from pipeline.stages.arrival import Arrival, Preference, QueuePolicy
from pipeline.stages.stash import StashPolicy
from pipeline.virtual_time.costs import CostModel

__all__ = ["Adam", "Config", "Data", "Executor", "Sgd", "Transport", "per_stage"]

Executor: TypeAlias = Literal["simulate", "threads", "distributed"]
Transport: TypeAlias = Literal["auto", "shared", "gloo", "nccl"]


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a run learns from and is tested on."""

    train: Any
    """Training microbatches: `KeyedBatches`, or any iterable of (x, target)."""
    test: Sequence[Batch] = ()
    """Evaluation batches, in order; empty: nothing is evaluated."""


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam, with the settings of `torch.optim.Adam`."""

    lr: float = 1e-3
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of gradient and squared gradient."""
    weight_decay: float = 0.0
    """L2 penalty, added to the gradient."""

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """Stochastic gradient descent, with the settings of `torch.optim.SGD`."""

    lr: float = 0.1
    """Learning rate."""
    momentum: float = 0.0
    """Share of the last step kept."""
    weight_decay: float = 0.0
    """L2 penalty, added to the gradient."""

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    model: tyro.conf.Suppress[Callable[[], nn.Module | Partition | Sequence[nn.Module]]]
    """Makes the network, under the run's seed: a chain of modules, a list of stages, or a `Partition`."""
    data: tyro.conf.Suppress[Callable[[], Data]]
    """Makes or loads the data."""
    loss: tyro.conf.Suppress[Any]
    """Loss module or function of (output, target): a mean or a sum over samples."""
    source: tyro.conf.Suppress[GradientSource | tuple[GradientSource, ...]] = field(default_factory=TrueGradient)
    """Where each stage's gradient comes from; one for every boundary, or one per boundary from the bottom up."""
    inputs: tyro.conf.Suppress[InputSource | tuple[InputSource, ...]] = field(default_factory=ReceivedInput)
    """Where each stage's input comes from: the stage below, or `SyntheticInput`, so that it need not wait for that; one
    for every boundary, or one per boundary from the bottom up."""
    name: str = ""
    """Name of the run's folder; empty: made from the configuration's name and the UTC time."""
    runs_dir: str = "runs"
    """Folder that run folders are made in."""

    steps: int
    """Training microbatches of the whole run."""
    seed: int = 0
    """Of every draw: initial weights, shuffling, syncs, dropout."""
    num_stages: int | None = None
    """Stages to cut the network into; not needed for a list of stages or a `Partition`."""
    at: tuple[str, ...] = ()
    """Layers at which a new stage begins, instead of num_stages."""
    balance: Balance = "count"
    """What the cut balances: layers, parameters, or measured seconds (of forward, backward and the sources)."""

    sync: tyro.conf.AvoidSubcommands[SyncPolicy] = field(default_factory=Never)
    """When, and how far down, the true gradient is used instead of each stage's source."""
    optimizer: tyro.conf.AvoidSubcommands[Adam | Sgd | OptimizerFactory | tuple[OptimizerFactory, ...]] = field(
        default_factory=Adam
    )
    """Makes each stage's optimiser; in Python also a tuple, one per stage."""
    schedule: tyro.conf.Suppress[Schedule | tuple[Schedule, ...]] = field(default_factory=Constant)
    """Factor of the learning rate as a function of the step; one for all stages, or one per stage."""
    clip_norm: float = math.inf
    """Largest norm of a stage's averaged gradient; inf: no clipping."""
    weight_decay: tyro.conf.Suppress[WeightDecay | None] = None
    """How the weights decay, as a function of the step and with any optimiser, which then must have none of its own;
    None: as the optimiser says."""
    cadence: tuple[int, ...] = (1,)
    """Steps from one update to the next; one number for all stages, or one per stage."""
    blocks: tyro.conf.Suppress[tuple[BlockCadence, ...]] = ()
    """Parts of the network with a cadence of their own, by their global names, as
    BlockCadence(Layer("2"), Periodic(4)): layers, parameters, or slices of one weight; what they do not name keeps the
    stage's cadence. by_depth makes one per layer."""
    participation: tyro.conf.Suppress[Participation | None] = None
    """Which blocks learn at a step, as TopOrAll(0.1, top=2): layers, or what `blocks` divides them into. No graph is
    built below the lowest that learns, and no gradient is sent below it; None: all of them learn."""
    idle_batch_norm: IdleBatchNorm = "follow"
    """What a BatchNorm does at a step at which it does not learn itself. follow: as if it did. hold: its running
    statistics stay. evaluate: they stay, and it normalises by them."""
    events: tyro.conf.Suppress[tuple[Event, ...]] = ()
    """When the structure changes and how, as Event(EpochEnds(), PruneUnits(layers=("0",), amount=Share(0.1))): right
    after the first update at the step, in the order of this list."""
    rate_rule: RateRule = "none"
    """By what the learning rate of a block is multiplied whose update holds k microbatches: none, linear (k), sqrt."""
    send_every: tuple[int, ...] = (1,)
    """Above 1, the stages above a boundary are on a slower clock: of so many microbatches that the stage below it
    takes, the last is sent on, and at the others that stage learns from what asks for nothing from above, if it has
    such a source (LocalLoss, or a Sum with one). Cadences count the microbatches that a stage gets. One, or one per
    boundary."""
    update_probability: tuple[float, ...] = (1.0,)
    """Probability that a stage learns from a step; one number for all stages, or one per stage."""

    executor: Executor = "simulate"
    """simulate: one thread, virtual time. threads: one process, a thread (and CUDA stream) per stage. distributed: a
    process per rank, under torchrun."""
    num_ranks: int | None = None
    """Processes of the distributed executor; by default one per stage."""
    arrival: Arrival = "fixed"
    """fixed: the same order on any machine, exactly resumable. ready: whatever is there, faster."""
    delay: tuple[int, ...] = (2,)
    """With arrival fixed: F(s) is handled after G(s - delay). One number, or one per boundary."""
    max_in_flight: tuple[int, ...] = (4,)
    """With arrival ready: microbatches a stage may have sent on and not yet been answered for. One, or one per
    boundary."""
    prefer: Preference = "gradients"
    """What a stage handles first when both wait: gradients (backward first, as in 1F1B), or activations (forward first,
    as in GPipe; the last stage too then forwards up to its bound before it pulls anything back)."""
    stash: StashPolicy = "hold"
    """What a stage keeps from a forward until its gradient comes. hold: the graph, and updates wait for it. recompute:
    the input; the backward is of today's weights. weights: the weights of the forward (PipeDream). graph: the graph
    without weights; the backward takes today's with the activations of the forward (PipeMare)."""
    correction: tyro.conf.Suppress[Correction | None] = None
    """What is done about gradients that come late: WeightPrediction, DiscrepancyCorrection, NesterovLookahead; None:
    nothing. A stage that is never stale is left alone."""
    max_staleness: int | None = None
    """Most versions from a forward to the use of its gradient; None: no bound of its own."""
    at_max_staleness: Literal["wait", "drop"] = "wait"
    """At that bound: wait (fewer microbatches in flight), or drop (a gradient that comes too late is not used)."""
    queue: tuple[QueuePolicy, ...] = ("block",)
    """What happens to activations that come faster than a stage takes them. block: the stage below waits at its bound.
    latest: only the newest is kept. drop_oldest: the oldest beyond queue_size goes. One, or one per boundary. Syncs and
    evaluations are never dropped."""
    queue_size: tuple[int, ...] = (2,)
    """With queue drop_oldest: activations that may wait. One number, or one per boundary."""
    transport: tuple[Transport, ...] = ("auto",)
    """How messages cross between ranks: shared (memory, on one host), gloo, nccl (a GPU per rank), or auto: the fastest
    of them that works. One, or one per boundary."""
    dead_after_s: float = 30.0
    """Seconds without a sign of life after which a rank counts as dead, and the run fails."""
    max_restarts: int = 0
    """Times the distributed executor starts all ranks again after a failure, from the last whole checkpoint."""
    costs: CostModel = field(default_factory=CostModel)
    """Virtual seconds of the simulate executor."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU per rank, or per stage with threads, if there are any (shared if there are fewer), else the CPU. Or
    cpu, cuda."""
    num_threads: int = 1
    """Intra-op threads of each process; results on CPU depend on it."""

    evaluate_every: int = 0
    """Steps from one evaluation to the next (drain, evaluate, go on); 0: at the end only."""
    probe_samples: int = 0
    """Samples of the probe that follows each evaluation, the first of the test data: on them the gradient that each
    stage uses is graded against the true one, the effective rank of each output and the share of its units that are
    dormant are measured, and nothing is learned; 0: no probe."""
    checkpoint_every: int = 0
    """Steps from one checkpoint to the next; 0: at the end only."""
    keep_last: int = 3
    """Checkpoints to keep, the newest ones; older ones are removed."""
    keep_best: bool = True
    """Keep also the checkpoint with the lowest test loss, if an evaluation fell on its step."""
    check_every: int = 100
    """Steps from one scan of the parameters for NaN to the next; 0: at checkpoints only. With threads, also from one
    check that a stage found not to draw random numbers does not; 0: at its first step only."""
    log_every: int = 50
    """Steps from one line of metrics to the next."""
    measure_every: int = 10
    """One in this many sync steps also compares parameter gradients (a second backward); 0: never."""
    measure_updates_every: int = 0
    """One in this many updates of a stage also measures how far it moves each weight: for its norm, as an angle, and
    both norms, of gradient and weight; 0: never."""
    histograms_every: int = 0
    """One in this many updates of a stage is also shown in TensorBoard as histograms: of its weights, of the averaged
    gradients, and of the output that it sends on; 0: never."""
    curvature: tyro.conf.Suppress[StageCurvature | tuple[StageCurvature | None, ...] | None] = None
    """How the loss that a stage sees, by its source, curves along its updates, subset by subset of its parameters, as
    StageCurvature(by="tensor"): reported, or with acts=True the updates are scaled by the rates that follow. In
    virtual time it takes none. One for all stages, or one per stage, None for none."""

    @property
    def syncs(self) -> bool:
        """Whether a true gradient may reach a stage that does not use it anyway."""
        return not isinstance(self.sync, Never)

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and number < least:
                    raise ConfigurationError(f"{name} must be at least {least}, got {value}.")
        if not self.clip_norm > 0:
            raise ConfigurationError(f"clip_norm must be positive (inf: no clipping), got {self.clip_norm}.")
        if not self.dead_after_s >= 2:
            raise ConfigurationError(
                f"dead_after_s must be at least 2 (a rank gives a sign of life every 0.25 s), got {self.dead_after_s}."
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigurationError("device is cuda, but PyTorch finds no CUDA device here. Use auto or cpu.")
        for block in self.blocks:
            if not isinstance(block, BlockCadence):
                raise ConfigurationError(
                    "blocks takes BlockCadence(selector, cadence), as BlockCadence(Layer('2'), Periodic(4)), "
                    f"got {block!r}."
                )
        for event in self.events:
            if not isinstance(event, Event):
                raise ConfigurationError(
                    f"events takes Event(when, action), as Event(At(100), PruneUnits(...)), got {event!r}."
                )
        if self.participation is not None and not isinstance(self.participation, Participation):
            raise ConfigurationError(
                f"participation takes a policy, as TopOrAll(0.1, top=2) or Only(('0',)), got {self.participation!r}."
            )
        try:
            tuple(map(Periodic, self.cadence))
            tuple(map(UpdateProbability, self.update_probability))
        except ValueError as error:
            raise ConfigurationError(str(error)) from error


_LEAST = {
    "steps": 1,
    "num_stages": 1,
    "num_ranks": 1,
    "delay": 1,
    "send_every": 1,
    "max_in_flight": 1,
    "queue_size": 1,
    "max_staleness": 0,
    "max_restarts": 0,
    "keep_last": 1,
    "num_threads": 1,
    "evaluate_every": 0,
    "probe_samples": 0,
    "checkpoint_every": 0,
    "check_every": 0,
    "log_every": 1,
    "measure_every": 0,
    "measure_updates_every": 0,
    "histograms_every": 0,
}


def per_stage(values: Any, count: int, *, name: str) -> list[Any]:
    """One value for each of `count` stages or boundaries, from a single one or a tuple of one each.

    Raises:
        ConfigurationError: there are neither one nor `count` of them.
    """
    values = values if isinstance(values, tuple) else (values,)
    if len(values) == 1:
        return list(values) * count
    if len(values) != count:
        raise ConfigurationError(f"{name} takes 1 value or {count} (one each), got {len(values)}: {values}.")
    return list(values)
