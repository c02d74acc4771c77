"""Which layers learn at a step, of which networks, and on what is that tried?

A rule says what learns at every step, and how probable it is that a step lets everything learn. Networks are chains of
six units, a unit being a layer of weights with the BatchNorm behind it; "head", "third" and "half" are their top 1, 2
and 3. Plain SGD at a rate that falls to 0 along half a cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise, product
from typing import NamedTuple, TypeAlias

from torch import Tensor, nn

from dni import Cosine, Only, Participation, Rescale, TopOrAll
from experiments.datasets import Dataset, Layout, cifar10_subset, fashion_mnist
from pipeline import Config, Data, KeyedBatches, Sgd
from pipeline.learners.idle import IdleBatchNorm

__all__ = [
    "ALL",
    "DATA",
    "EVERYTHING",
    "FULL_NETS",
    "GRID",
    "INVERSE",
    "NETS",
    "NORMALISED",
    "PROBABILITIES",
    "RATES",
    "RESCALED",
    "SEEDS",
    "SHORTENED",
    "STATIC",
    "TASKS",
    "TOPS",
    "TUNED",
    "TUNED_INVERSE",
    "WIDE",
    "WIDE_RULES",
    "WIDE_TASK",
    "Net",
    "Rule",
    "Split",
    "Task",
    "make_config",
    "make_linear",
    "make_vgg",
    "participation",
    "split",
    "top_of",
    "units",
]

PROBABILITIES = (0.05, 0.1, 0.2, 0.3, 0.5)
TOPS = ("head", "third", "half")
ALL = "all"
RATES = (0.03, 0.1, 0.3)
"""Of SGD without momentum."""
SEEDS = (0, 1, 2)
SHORTENED = (2, 4, 8)
"""Full SGD is also run with 1/2, 1/4, ... of the steps: what it comes to with less time for back-propagation."""
_BATCH_SIZE = 50
_NUM_TRAINING, _NUM_HELD_OUT = 10_000, 5_000


class Rule(NamedTuple):
    """Who learns when."""

    learns: str
    """What learns at every step: head, third or half, counted from the top; bottom, the lower half; ends, the lowest
    unit and the highest; all."""
    probability: float
    """That a step lets everything learn; 0: static."""
    rescale: Rescale = "leave"
    batch_norm: IdleBatchNorm = "follow"

    @property
    def title(self) -> str:
        words = [self.learns, *([f"p = {self.probability:g}"] if self.probability else ["only"])]
        words += [word for word in (self.rescale, self.batch_norm) if word not in ("leave", "follow")]
        return "full SGD" if self == EVERYTHING else ", ".join(words)


EVERYTHING = Rule(ALL, 1.0)
"""Full SGD."""
TUNED = Rule("third", 0.2)
"""The rule whose rate is chosen for all of its kind, before some become finalists."""
GRID = tuple(Rule(top, probability) for top, probability in product(TOPS, PROBABILITIES))
STATIC = tuple(Rule(learns, 0.0) for learns in ("head", "third", "half", "bottom", "ends"))
TUNED_INVERSE = Rule("head", 0.2, "inverse")
"""The one whose rate those of `INVERSE` have."""
INVERSE = tuple(Rule(top, probability, "inverse") for top, probability in product(TOPS, (0.2, 0.3)))
"""Those that may become finalists with the lower layers' rate times 1/p."""
_PICKED = (Rule("head", 0.1), Rule("half", 0.1))
RESCALED = tuple(rule._replace(rescale=how) for rule in _PICKED for how in ("inverse", "elapsed"))
"""With every rate, on the networks that `rescales` says."""
NORMALISED = tuple(rule._replace(batch_norm=how) for rule in _PICKED for how in ("hold", "evaluate"))
"""On networks with BatchNorm, with the rate of the rule that follows."""


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network and how long it learns."""

    title: str
    make: Callable[[tuple[int, ...]], nn.Sequential]
    """For inputs of a shape."""
    layout: Layout
    epochs: int
    rescales: bool = False
    """Whether `RESCALED` is tried on it, on Fashion-MNIST."""
    normalises: bool = False
    """Whether it has BatchNorm."""


def units(network: nn.Sequential) -> list[tuple[str, ...]]:
    """From the input up, the names of each layer of weights and of the BatchNorm behind it."""
    found: list[tuple[str, ...]] = []
    for name, module in network.named_children():
        if isinstance(module, nn.BatchNorm2d):
            found[-1] += (name,)
        elif next(module.parameters(), None) is not None:
            found.append((name,))
    return found


def top_of(rule: Rule, network: nn.Sequential) -> tuple[str, ...]:
    """The layers that learn at every step, from the input up.

    Raises:
        ValueError: the rule's `learns` is not one of those there are.
    """
    own = units(network)
    third, half = len(own) // 3, len(own) // 2
    parts = {"head": own[-1:], "third": own[-third:], "half": own[-half:]}
    parts |= {"bottom": own[:half], "ends": [own[0], own[-1]], ALL: own}
    if rule.learns not in parts:
        raise ValueError(f"learns must be one of {', '.join(parts)}, got {rule.learns!r}.")
    return tuple(name for unit in parts[rule.learns] for name in unit)


def participation(rule: Rule, network: nn.Sequential) -> Participation | None:
    """The rule for a network; None: everything learns at every step."""
    if rule.learns == ALL:
        return None
    learns = top_of(rule, network)
    return TopOrAll(rule.probability, top=learns[0], rescale=rule.rescale) if rule.probability else Only(learns)


def make_linear(widths: tuple[int, ...], shape: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with ReLU between them, initialised for it: `shape` is (F,), the last width that of the output."""
    layers: list[nn.Module] = []
    for before, after in pairwise((shape[0], *widths)):
        layers += [_initialised(nn.Linear(before, after)), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def make_vgg(channels: tuple[int, int, int, int, int], shape: tuple[int, ...]) -> nn.Sequential:
    """3 x 3 convolutions, each with BatchNorm and ReLU, in groups of 1, 2 and 2 that a pooling ends; a linear layer."""
    layers: list[nn.Module] = []
    side = shape[1]
    for index, (before, after) in enumerate(pairwise((shape[0], *channels))):
        convolution = _initialised(nn.Conv2d(before, after, 3, padding=1, bias=False))
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        if index in (0, 2, 4):
            layers.append(nn.MaxPool2d(2))
            side //= 2
    return nn.Sequential(*layers, nn.Flatten(), _initialised(nn.Linear(channels[-1] * side**2, 10)))


def _initialised(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _mlp(width: int, *, rescales: bool = False) -> Net:
    make = partial(make_linear, (*(width,) * 5, 10))
    return Net(title=f"MLP, width {width}", make=make, layout="flat", epochs=20, rescales=rescales)


NETS: Mapping[str, Net] = {
    "mlp 64": _mlp(64),
    "mlp 128": _mlp(128, rescales=True),
    "mlp 256": _mlp(256),
    "cnn": Net(
        title="VGG-like CNN",
        make=partial(make_vgg, (8, 16, 16, 32, 32)),
        layout="image",
        epochs=7,
        rescales=True,
        normalises=True,
    ),
    "mlp 1024": _mlp(1024),
    "wide cnn": Net(
        title="VGG-like CNN, 4 x as wide",
        make=partial(make_vgg, (32, 64, 64, 128, 128)),
        layout="image",
        epochs=7,
        normalises=True,
    ),
}
FULL_NETS = ("mlp 1024", "wide cnn")
"""Of those, asked for with --full only."""
DATA: Mapping[str, Callable[[Layout], Dataset]] = {"fashion": fashion_mnist, "cifar": cifar10_subset}

Task: TypeAlias = tuple[str, str]
"""Network and data, by the names in `NETS` and `DATA`."""
WIDE = "mlp 1024"
WIDE_TASK: Task = (WIDE, "fashion")
WIDE_RULES = (EVERYTHING, Rule("head", 0.3), Rule("head", 0.2))
"""Tried on a wide network by itself, where the head's share of a backward is small."""
TASKS: tuple[Task, ...] = tuple((net, data) for data in DATA for net in NETS)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Few samples to learn from, others to choose by, and the test samples."""

    train_x: Tensor
    train_y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor
    test_x: Tensor
    test_y: Tensor


@cache
def split(data: str, layout: Layout) -> Split:
    """The first 10,000 training samples, the last 5,000, and the test samples; read once in a process."""
    whole = DATA[data](layout)
    return Split(
        train_x=whole.train_x[:_NUM_TRAINING].clone(),
        train_y=whole.train_y[:_NUM_TRAINING],
        held_out_x=whole.train_x[-_NUM_HELD_OUT:].clone(),
        held_out_y=whole.train_y[-_NUM_HELD_OUT:],
        test_x=whole.test_x,
        test_y=whole.test_y,
    )


def make_config(
    task: Task, rule: Rule, *, rate: float, seed: int = 0, part: int = 1, steps: int | None = None
) -> Config:
    """The whole configuration of a run: one stage, with a thread of its own, whose seconds are real ones.

    Args:
        task: network and data.
        rule: who learns when.
        rate: of SGD at the beginning.
        seed: of initial weights, order of the samples, and steps at which everything learns.
        part: of the network's own number of steps the run has 1/part.
        steps: instead of that number.
    """
    net = NETS[task[0]]
    steps = (steps or net.epochs * (_NUM_TRAINING // _BATCH_SIZE)) // part
    data = partial(split, task[1], net.layout)
    make = partial(net.make, tuple(data().train_x.shape[1:]))
    return Config(
        model=make,
        num_stages=1,
        data=lambda: Data(train=KeyedBatches(data().train_x, data().train_y, batch_size=_BATCH_SIZE)),
        loss=nn.CrossEntropyLoss(),
        optimizer=Sgd(lr=rate),
        schedule=Cosine(total=steps),
        participation=participation(rule, make()),
        idle_batch_norm=rule.batch_norm,
        steps=steps,
        seed=seed,
        log_every=steps,
        executor="threads",
        device="cpu",
    )
