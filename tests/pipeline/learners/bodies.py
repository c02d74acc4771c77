"""Small bodies for the tests of what follows a change of structure: two layers with a norm between, in float64."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dni import REST, Corrector, Hidden, NewUnits, Origin, Pace, Periodic, TensorChange, WeightPrediction, change_units
from pipeline.clock import WallClock
from pipeline.learners.body import Body
from pipeline.learners.distributions import DistributionMeter
from pipeline.learners.idle import IdleLayers
from pipeline.learners.late_weights import LateWeights
from pipeline.learners.movement import MovementMeter
from pipeline.learners.naming import Naming
from pipeline.learners.parts import Parts, Remembered
from pipeline.learners.updater import Updater
from pipeline.randomness.keyed import generator
from pipeline.stages.trace import Recorder

ADAM = partial(torch.optim.Adam, lr=0.01, weight_decay=0.01)
MOMENTUM = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def network(width: int = 6) -> nn.Sequential:
    """A stage whose layers are called 4, 5, 6, 7 in the whole network."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3)).double()


def make_body(module: nn.Module, optimizer: Any = ADAM) -> Body:
    """The body of a stage, corrected by the weights' velocity, so that this has to follow, too."""
    naming = Naming(tuple((f"{index}.", f"{index + 4}.") for index in range(4)))

    def make(remembered: Remembered) -> Parts:
        names = naming.of(module)
        corrector = Corrector(WeightPrediction(), module.named_parameters(), staleness=1.0)
        return Parts(
            updater=Updater(
                {names[name]: parameter for name, parameter in module.named_parameters()},
                optimizer=optimizer,
                schedule=lambda step: 1.0,
                pace=remembered.pace or Pace({REST: Periodic(1)}),
                ages=remembered.ages,
                masks=remembered.masks,
            ),
            weights=LateWeights(module, stash="hold", corrector=corrector, history=remembered.history),
            idle=IdleLayers(module),
            movement=MovementMeter(module, names=names, recorder=Recorder(0, WallClock()), every=0),
            distributions=DistributionMeter(module, names=names, recorder=Recorder(0, WallClock()), every=0),
        )

    return Body(module, make, naming=naming)


def drawn(step: int) -> Tensor:
    """(N, F), the same for the same step."""
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def backward(module: nn.Module, step: int) -> None:
    """Of a loss summed over the samples."""
    module(drawn(step)).square().sum().backward()


def learn(body: Body, steps: Iterable[int]) -> None:
    """An update at each step."""
    for step in steps:
        backward(body.module, step)
        updater = body.parts.updater
        updater.accumulate(5)
        body.parts.weights.update(partial(updater.apply, step))


def unit_changes(body: Body, origin: Origin, new: NewUnits | None = None) -> dict[str, TensorChange]:
    """What becomes of the tensors of the hidden units, by global name."""
    hidden = Hidden.of(body.module, producers=["0"], consumers=["3"], norms=["1"])
    changes = change_units(hidden, origin, new or NewUnits(), keyed=lambda name: generator(0, name, 0))
    return {body.naming.full(name): change for name, change in changes.items()}


def cut(name: str, value: Tensor, kept: Sequence[int]) -> Tensor:
    """A tensor of the network, or what follows it, with these hidden units alone."""
    if value.dim() == 0 or name == "3.bias":
        return value.clone()
    return value[:, list(kept)] if name == "3.weight" else value[list(kept)]
