"""Which sources of gradients are compared, on which networks and data? One entry of ROWS per source.

Everything that is not the source's own is the same in all rows: network, data, samples, Adam in each stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from dni import (
    MLP,
    Alternating,
    Bernoulli,
    ConditionalSyntheticGradient,
    Convolutional,
    Critic,
    DirectFeedbackAlignment,
    FeedbackMode,
    GradientSource,
    Kickback,
    Linear,
    LocalLoss,
    MixedGradient,
    NoGradient,
    ShrunkGradient,
    SobolevCritic,
    SyncPolicy,
    SyntheticGradient,
    VirtualGradient,
    WeightPrediction,
    ZeroGradient,
    convert_to_feedback_alignment,
    doubling_restarts,
)
from experiments.datasets import Dataset, Layout, fashion_mnist, mnist
from pipeline import Adam, Config, Data, KeyedBatches
from pipeline.configuration import methods

__all__ = [
    "BATCH_SIZE",
    "DATA",
    "FAMILIES",
    "NETS",
    "RATES",
    "ROWS",
    "SEEDS",
    "TASKS",
    "Family",
    "Net",
    "Row",
    "Split",
    "Task",
    "bare_config",
    "make_config",
    "split",
]

BATCH_SIZE = 256
RATES = (1e-3, 3e-4)
"""Of Adam in every stage; the better one on held-out samples is a row's."""
SEEDS = (0, 1, 2)
NUM_HELD_OUT = 10_000
"""The last of the training set: whatever is chosen is chosen on them."""
NUM_EVALUATIONS = 5
"""At equal distances; the last one after the last step."""
_WIDTH = 256
_KERNEL = 3
"""Of all convolutions, those of synthesizers included."""

Family: TypeAlias = Literal["true", "late", "synthetic", "critic", "local", "feedback", "control"]
FAMILIES: Mapping[Family, str] = {
    "true": "the true gradient",
    "late": "the true gradient, late",
    "synthetic": "a predicted gradient",
    "critic": "the gradient of something predicted",
    "local": "a loss of the stage's own",
    "feedback": "the error, over other weights",
    "control": "nothing",
}
Task: TypeAlias = tuple[str, str]
"""Network and data, by the names in `NETS` and `DATA`."""


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network, in stages."""

    title: str
    make: Callable[[], list[nn.Module]]
    layout: Layout
    epochs: int
    """Of 50,000 samples."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One source of gradients, in the order of messages that suits it."""

    title: str
    family: Family
    make: Callable[[Config], Config]
    """Of a configuration that has everything but the source."""
    blind_probe: bool = False
    """Whether a probe cannot see what is wrong with the gradient: lateness, or another way back through a layer."""
    twin: str = ""
    """The row that this one must equal bit for bit; it takes no place among the finalists."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """A data set, with some of the training set held out; whole microbatches in an epoch."""

    train_x: Tensor
    train_y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor
    test_x: Tensor
    test_y: Tensor


def make_config(row: str, task: Task, *, rate: float = RATES[0], seed: int = 0, steps: int | None = None) -> Config:
    """The whole configuration of a run.

    Args:
        row: name of the source.
        task: network and data.
        rate: of Adam in every stage.
        seed: of initial weights, of the order of the samples, and of all that a source draws.
        steps: microbatches; None: the network's own number of epochs.
    """
    net, data = NETS[task[0]], partial(_training_data, task)
    steps = steps or net.epochs * data().train.steps_per_epoch
    plain = Config(
        model=net.make,
        data=data,
        loss=nn.CrossEntropyLoss(),
        steps=steps,
        seed=seed,
        optimizer=Adam(lr=rate),
        evaluate_every=max(1, steps // NUM_EVALUATIONS),
        probe_samples=BATCH_SIZE,
        measure_every=0,
        log_every=max(1, steps // NUM_EVALUATIONS),
        device="cpu",
    )
    return ROWS[row].make(plain)


def bare_config(row: str, net: str, *, steps: int) -> Config:
    """A row that learns from random pictures and is not evaluated: for what does not depend on what it sees."""
    config = make_config(row, (net, "mnist"), steps=steps)
    return replace(config, data=partial(_noise, net), evaluate_every=0, probe_samples=0, log_every=steps)


@cache
def split(task: Task) -> Split:
    """The data of a task, read once in a process."""
    whole = DATA[task[1]](NETS[task[0]].layout)
    num_training = len(whole.train_x) - NUM_HELD_OUT
    return Split(
        train_x=whole.train_x[:num_training],
        train_y=whole.train_y[:num_training],
        held_out_x=whole.train_x[num_training:],
        held_out_y=whole.train_y[num_training:],
        test_x=whole.test_x,
        test_y=whole.test_y,
    )


def _training_data(task: Task) -> Data:
    """What a run sees: it is evaluated, and its sources are graded, on the first of the held-out samples."""
    data = split(task)
    return Data(
        train=KeyedBatches(data.train_x, data.train_y, batch_size=BATCH_SIZE, drop_last=True),
        test=[(data.held_out_x[:BATCH_SIZE], data.held_out_y[:BATCH_SIZE])],
    )


def _noise(net: str, *, num_batches: int = 4) -> Data:
    drawn = torch.Generator().manual_seed(0)
    shape = (784,) if NETS[net].layout == "flat" else (1, 28, 28)
    x = torch.randn(num_batches * BATCH_SIZE, *shape, generator=drawn)
    target = torch.randint(10, (len(x),), generator=drawn)
    return Data(train=KeyedBatches(x, target, batch_size=BATCH_SIZE))


def _fcn() -> list[nn.Module]:
    """784-256-256-256-256-10, a layer per stage: the network of Jaderberg et al. 2017 with 4 boundaries."""
    widths = (784, *(_WIDTH,) * 4)
    hidden = [nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairwise(widths)]
    return [*hidden, nn.Linear(_WIDTH, 10)]


def _cnn() -> list[nn.Module]:
    """Three convolutions and a linear layer, one to a stage; boundaries of 16 x 7 x 7, 32 x 3 x 3 and 32 x 3 x 3."""
    return [
        nn.Sequential(nn.Conv2d(1, 16, _KERNEL, stride=2, padding=1), *_after(16), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(16, 32, _KERNEL, padding=1), *_after(32), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(32, 32, _KERNEL, padding=1), *_after(32)),
        nn.Sequential(nn.Flatten(), nn.Linear(32 * 3 * 3, 10)),
    ]


def _after(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU()


def _one_hidden_layer(h: Tensor, num_context: int) -> nn.Module:
    """A synthesizer with a hidden layer of the width of h: dense on features, of convolutions on images."""
    if h.dim() == 4:
        return Convolutional((h.shape[1],), _KERNEL)(h, num_context)
    return MLP((h.shape[1],))(h, num_context)


def _converted(make: Callable[[], list[nn.Module]], mode: FeedbackMode) -> list[nn.Module]:
    """The same initial weights, and drawn after them those of the way back; the first stage sends nothing back."""
    stages = make()
    for stage in stages[1:]:
        convert_to_feedback_alignment(stage, generator=torch.default_generator, mode=mode)
    return stages


def _decoupled(source: GradientSource, sync: SyncPolicy | None = None) -> Callable[[Config], Config]:
    """Stages that act at once; their sources learn from gradients that come one step late."""
    return lambda config: methods.decoupled(config, source=source, sync=sync)


def _waiting(source: GradientSource) -> Callable[[Config], Config]:
    """Stages that wait at every step: one microbatch in the network at a time."""
    return lambda config: replace(methods.backprop(config), source=source)


def _feedback_alignment(mode: FeedbackMode) -> Callable[[Config], Config]:
    return lambda config: replace(methods.backprop(config), model=partial(_converted, config.model, mode))


def _late(**settings: object) -> Callable[[Config], Config]:
    """A full pipeline, as in PipeDream: with S stages, stage i learns from gradients S - 1 - i updates late."""
    return lambda config: replace(methods.pipedream(config), **settings)  # type: ignore[arg-type]


def _alternating(config: Config) -> Config:
    """True up to 1/8 of the run, from 1/4 to 1/2 again, and predicted between and after."""
    restarts = doubling_restarts(max(1, config.steps // 8), total=config.steps)
    return methods.decoupled(config, source=_conditional(), sync=Alternating(restarts))


def _conditional() -> ConditionalSyntheticGradient:
    return ConditionalSyntheticGradient(10, Linear(_KERNEL))


NETS: Mapping[str, Net] = {
    "fcn": Net(title="fully connected network, 4 boundaries", make=_fcn, layout="flat", epochs=5),
    "cnn": Net(title="convolutional network, 3 boundaries", make=_cnn, layout="image", epochs=2),
}
DATA: Mapping[str, Callable[[Layout], Dataset]] = {"mnist": mnist, "fashion": fashion_mnist}
TASKS: tuple[Task, ...] = tuple((net, data) for net in NETS for data in DATA)

ROWS: Mapping[str, Row] = {
    "backprop": Row(title="backprop", family="true", make=methods.backprop),
    "late_hold": Row(title="graph held, updates wait", family="true", make=_late(stash="hold"), twin="backprop"),
    "late_weights": Row(title="weights stashed", family="late", make=_late(), blind_probe=True),
    "late_recompute": Row(title="recomputed", family="late", make=_late(stash="recompute"), blind_probe=True),
    "late_graph": Row(
        title="today's weights, old activations", family="late", make=_late(stash="graph"), blind_probe=True
    ),
    "late_shrunk": Row(
        title="weights stashed, shrunk, β = 0.5",
        family="late",
        make=_late(source=ShrunkGradient(0.5)),
        blind_probe=True,
    ),
    "late_predicted": Row(
        title="weight prediction",
        family="late",
        make=_late(stash="graph", correction=WeightPrediction(momentum=0.0)),
        blind_probe=True,
    ),
    "synthetic": Row(
        title="synthetic, linear", family="synthetic", make=_decoupled(SyntheticGradient(Linear(_KERNEL)))
    ),
    "synthetic_hidden": Row(
        title="synthetic, one hidden layer",
        family="synthetic",
        make=_decoupled(SyntheticGradient(_one_hidden_layer)),
    ),
    "conditional": Row(title="conditional, linear", family="synthetic", make=_decoupled(_conditional())),
    "conditional_sync": Row(
        title="conditional, syncs p = 0.1", family="synthetic", make=_decoupled(_conditional(), Bernoulli(0.1))
    ),
    "alternating": Row(title="conditional, alternating with true", family="synthetic", make=_alternating),
    "mixed": Row(
        title="conditional mixed with true, λ = 0.5",
        family="synthetic",
        make=_waiting(MixedGradient(_conditional(), 0.5)),
    ),
    "critic": Row(title="critic", family="critic", make=_decoupled(Critic())),
    "sobolev": Row(title="Sobolev critic", family="critic", make=_decoupled(SobolevCritic())),
    "virtual": Row(title="virtual model", family="critic", make=_decoupled(VirtualGradient())),
    "local": Row(title="local loss (pred)", family="local", make=_decoupled(LocalLoss())),
    "local_predsim": Row(
        title="local loss (predsim)", family="local", make=_decoupled(LocalLoss(similarity_weight=0.99))
    ),
    "feedback": Row(
        title="feedback alignment", family="feedback", make=_feedback_alignment("random"), blind_probe=True
    ),
    "sign_symmetric": Row(
        title="sign-symmetric", family="feedback", make=_feedback_alignment("sign"), blind_probe=True
    ),
    "direct_feedback": Row(
        title="direct feedback alignment", family="feedback", make=_waiting(DirectFeedbackAlignment())
    ),
    "kickback": Row(title="kickback", family="feedback", make=_waiting(Kickback())),
    "zero": Row(title="zero", family="control", make=_decoupled(ZeroGradient())),
    "none": Row(title="none", family="control", make=_decoupled(NoGradient())),
}
"""In the order of the tables."""
