"""What is a run at a step of its training, so that it can be looked at without going on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dni import GradientSource, NetworkLoss, UsedGradient, optimizer_step
from pipeline import Config, generator, prepare
from pipeline.clock import WallClock
from pipeline.configuration.run import build_stage
from pipeline.records import checkpoint
from pipeline.records.manifest import checkpoint_folder, verify

__all__ = ["Frozen", "freeze", "stage_of"]

_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A checkpoint, loaded. Points are the parameters by name, as of `nn.Sequential(*stages)`."""

    step: int
    seed: int
    loss: nn.Module
    stages: Sequence[nn.Module]
    sources: Sequence[GradientSource]
    """One per stage, the loss last."""
    optimizers: Sequence[Optimizer]
    """One per stage, with its state."""
    batch: tuple[Tensor, Tensor]
    """The microbatch that the run takes next."""

    @property
    def point(self) -> dict[str, Tensor]:
        """θ: the parameters themselves."""
        return dict(nn.Sequential(*self.stages).named_parameters())

    def true_loss(self, batches: Sequence[tuple[Tensor, Tensor]]) -> NetworkLoss:
        """The loss per sample, and the true gradient."""
        return NetworkLoss(nn.Sequential(*self.stages), batches, self.loss)

    def used_gradient(self, batches: Sequence[tuple[Tensor, Tensor]]) -> UsedGradient:
        """The gradient per sample that the stages learn from."""
        return UsedGradient(self.stages, self.sources, batches, step=self.step)

    def update(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The step that the optimisers would take with this gradient."""
        found: dict[str, Tensor] = {}
        for index, optimizer in enumerate(self.optimizers):
            own = {name: value for name, value in self.point.items() if stage_of(name) == index}
            found |= optimizer_step(optimizer, own, {name: gradient[name] for name in own})
        return found

    def draw(self, name: str, step: int = 0) -> torch.Generator:
        """A generator for what is drawn to look at this run."""
        return generator(self.seed, f"landscape {name}", step)


def freeze(config: Config, folder: Path, step: int) -> Frozen:
    """Load the checkpoint at `step`.

    Args:
        config: of the run.
        folder: of the run.
        step: of a checkpoint that was kept.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    prepared = prepare(config)
    stages = [build_stage(prepared, index, clock=WallClock()) for index in range(prepared.num_stages)]
    path = checkpoint_folder(folder / "checkpoints", step)
    checkpoint.load(path, stages, verify(path))
    modules, optimizers = list(prepared.cut.stages), []
    for index, module in enumerate(modules):
        names = prepared.cut.names(index)
        states = checkpoint.read_stage(path, index, device=_CPU)["updater"]["optimizer"]
        own = [states[names[name]] for name, _ in module.named_parameters()]
        optimizers.append(_optimizer(config.optimizer, module, own))
    assert prepared.train is not None
    return Frozen(
        step=step,
        seed=config.seed,
        loss=config.loss,
        stages=modules,
        sources=prepared.sources,
        optimizers=optimizers,
        batch=_tensors(next(prepared.train.start(step))),
    )


def stage_of(name: str) -> int:
    """The stage that a parameter belongs to."""
    return int(name.partition(".")[0])


def _tensors(batch: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
    x, target = batch
    return x, target


def _optimizer(make: Any, module: nn.Module, states: Sequence[Mapping[str, Any]]) -> Optimizer:
    optimizer: Optimizer = make(list(module.parameters()))
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": dict(enumerate(states)), "param_groups": groups})
    return optimizer
