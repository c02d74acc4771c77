"""Small stages for the tests of one stage and of a chain in virtual time.

Letters: N samples, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dni import (
    REST,
    ConditionalSyntheticGradient,
    GradientSource,
    LocalLoss,
    LossGradient,
    Members,
    MixedGradient,
    Need,
    Never,
    NoGradient,
    Pace,
    Periodic,
    ReceivedInput,
    Signal,
    SyncPolicy,
    SyntheticGradient,
    TrueGradient,
    UpdateProbability,
)
from pipeline.clock import VirtualClock, WallClock
from pipeline.learners.distributions import DistributionMeter
from pipeline.learners.idle import IdleLayers
from pipeline.learners.late_weights import LateWeights
from pipeline.learners.learner import Learner
from pipeline.learners.movement import MovementMeter
from pipeline.learners.naming import Naming
from pipeline.learners.parts import Parts, Remembered
from pipeline.learners.updater import Updater
from pipeline.messages import Activation, Gradient, Message, Send
from pipeline.stages.arrival import Arrival, Inbox
from pipeline.stages.stage import Stage
from pipeline.stages.stage_settings import StageSettings
from pipeline.stages.trace import Event, Recorder
from pipeline.virtual_time.costs import CostModel
from pipeline.virtual_time.simulator import simulate

WIDTH = 3
"""F of every boundary."""
CPU = torch.device("cpu")


def features(step: int, *, num_samples: int = 4, width: int = WIDTH) -> Tensor:
    """(N, F), the same for the same step."""
    return torch.randn(num_samples, width, generator=torch.Generator().manual_seed(step))


def labels(step: int, *, num_samples: int = 4) -> Tensor:
    """(N,), in [0, F)."""
    return torch.randint(WIDTH, (num_samples,), generator=torch.Generator().manual_seed(1000 + step))


def activation(step: int, *, reach: int = 0, num_samples: int = 4, training: bool = True) -> Activation:
    """A microbatch for any stage."""
    return Activation(
        step=step,
        h=features(step, num_samples=num_samples),
        target=labels(step, num_samples=num_samples),
        reach=reach,
        training=training,
    )


def linear(seed: int = 0, width: int = WIDTH) -> nn.Linear:
    """A square layer, the same for the same seed."""
    layer = nn.Linear(width, width)
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=drawn) / 2)
    return layer


def make_stage(
    module: nn.Module | None = None,
    *,
    index: int = 1,
    num_stages: int = 3,
    source: GradientSource | None = None,
    sync: SyncPolicy | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = lambda p: torch.optim.SGD(p, lr=0.1),
    clock: VirtualClock | WallClock | None = None,
    cadence: int = 1,
    update_probability: float = 1.0,
    seed: int = 0,
    modifies_input: bool = False,
    measure_every: int = 10,
    **settings: Any,
) -> Stage:
    """One stage; by default the middle one of three, with the true gradient from above."""
    module = module or linear()
    own = {name: f"{index}.{name}" for name in module.state_dict()}
    if source is None:
        source = LossGradient(nn.CrossEntropyLoss()) if index == num_stages - 1 else TrueGradient()
    recorder = Recorder(index, clock or WallClock())
    stash = settings.get("stash", "hold")

    def make_parts(remembered: Remembered) -> Parts:
        return Parts(
            updater=Updater(
                {own[name]: parameter for name, parameter in module.named_parameters()},
                optimizer=optimizer,
                schedule=lambda step: 1.0,
                pace=remembered.pace or Pace({REST: Periodic(cadence)}),
            ),
            weights=LateWeights(module, stash=stash, corrector=None),
            idle=IdleLayers(module),
            movement=MovementMeter(module, names=own, recorder=recorder, every=0),
            distributions=DistributionMeter(module, names=own, recorder=recorder, every=0),
        )

    learner = Learner(
        module,
        index=index,
        source=source,
        inputs=ReceivedInput(),
        parts=make_parts,
        naming=Naming((("", f"{index}."),)),
        recorder=recorder,
        device=CPU,
        seed=seed,
        modifies_input=modifies_input,
        measure_every=measure_every,
        stash=stash,
    )
    return Stage(
        learner,
        settings=StageSettings(
            index=index,
            num_stages=num_stages,
            seed=seed,
            sync=sync or Never(),
            update_probability=UpdateProbability(update_probability),
            **settings,
        ),
        recorder=recorder,
    )


def play(
    stages: Sequence[Stage],
    messages: Iterator[Message],
    *,
    clock: VirtualClock,
    costs: CostModel,
    arrival: Arrival = "fixed",
) -> tuple[float, list[list[Event]]]:
    """Simulate a chain; the time it took and what each stage did."""
    elapsed_s = simulate(
        stages,
        messages,
        inboxes=[Inbox(arrival) for _ in stages],
        clock=clock,
        costs=costs,
        on_drained=lambda stage, drain: None,
    )
    return elapsed_s, [stage.recorder.take_events() for stage in stages]


def operations(stage: Stage) -> list[str]:
    """What a stage did since the last call, as F0, B0, ..."""
    return [f"{event.operation}{event.step}" for event in stage.recorder.take_events()]


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of parameters and buffers."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Same names, same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


SOURCES: dict[str, Callable[[], GradientSource]] = {
    "true": TrueGradient,
    "synthetic": SyntheticGradient,
    "conditional": lambda: ConditionalSyntheticGradient(WIDTH),
    "none": NoGradient,
    "local": lambda: LocalLoss(WIDTH),
    "mixed": lambda: MixedGradient(ConditionalSyntheticGradient(WIDTH)),
}
"""Every kind of source, by a name for the test."""


class Constant(nn.Module):
    """A source that always says the same."""

    needs = Need.NONE
    learns_from = Need.NONE

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        pass

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        assert isinstance(h, Tensor)
        return torch.full_like(h, self.value)

    def learn(self, h: Members, signal: Signal) -> float:
        return 0.0


def gradient(step: int, value: float | None = 1.0, **more: Any) -> Gradient:
    """The answer to a microbatch, the same value everywhere; None: a credit."""
    return Gradient(step=step, value=None if value is None else torch.full((4, WIDTH), value), **more)


def downward(sends: list[Send], stage: Stage) -> list[Gradient]:
    """What goes to the stage below."""
    return [s.message for s in sends if s.to == stage.settings.index - 1 and isinstance(s.message, Gradient)]


def upward(sends: list[Send], stage: Stage) -> list[Activation]:
    """What goes to the stage above."""
    return [s.message for s in sends if s.to == stage.settings.index + 1 and isinstance(s.message, Activation)]


class Shrunk(nn.Module):
    """A source that needs the gradient from above and passes on a share of it (None: nothing)."""

    needs = Need.GRADIENT
    learns_from = Need.NONE

    def __init__(self, share: float | None) -> None:
        super().__init__()
        self.share = share

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        pass

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        assert isinstance(signal.gradient, Tensor)
        return None if self.share is None else signal.gradient * self.share

    def learn(self, h: Members, signal: Signal) -> float:
        return 0.0
