"""How does the loss that one stage of a decoupled network sees curve along a step of that stage?

A stage does not know the network's loss but what its source implies (`dni.sources.implied`): at the top the loss
itself, with `LocalLoss` its own, with a synthesizer M the loss along whose every line M(h) is the slope. To set it
beside the true one, across stages in one process, take the whole network along the same step:

    names = {f"{index}.{name}": u for index, step in enumerate(steps) for name, u in step.items()}
    summarise(loss_parts(nn.Sequential(*stages), loss, x, target), parameters, names, partition)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from dni.cadences.blocks import Shapes
from dni.curvature.loss_parts import loss_parts, twin_of
from dni.curvature.partition import ParameterPartition
from dni.curvature.rate_memory import CurvatureSettings
from dni.curvature.summaries import Summary, summarise
from dni.curvature.taylor import is_chain, summarise_chain
from dni.members import Members, num_samples
from dni.sources.implied import implied_loss
from dni.sources.source import Signal

__all__ = ["StageBatch", "StageCurvature", "Subsets", "summarise_stage"]

Subsets: TypeAlias = Literal["tensor", "layer", "stage"] | Mapping[str, Sequence[str]]
"""What shares a step size: each tensor, each layer, the stage; or subsets by name, each of parameters or modules."""


@dataclass(frozen=True, kw_only=True)
class StageCurvature:
    """What a stage makes of the curvature of the loss that it sees, along the steps that its optimiser proposes.

    At a sync step, too, the loss is what the source implies; the step is that of the true gradient.

    Raises:
        ValueError: `by` names no kind of subsets, or the number of microbatches is none.
    """

    by: Subsets = "tensor"
    """Of names in the whole network; those of a subset that are not of a stage are left out there."""
    settings: CurvatureSettings = field(default_factory=CurvatureSettings)
    """When there is a summary, in updates of the stage, and which rates follow."""
    acts: bool = False
    """Whether each step is scaled by the rates, subset by subset. If not, they are only reported. A subset that has no
    rate yet has the mean of the others' in its stage; if there is none, its steps are as the optimiser proposes."""
    microbatches: int = 1
    """Of which the loss is, the newest ones that the stage has learned from; their inputs are kept."""

    def __post_init__(self) -> None:
        if isinstance(self.by, str) and self.by not in ("tensor", "layer", "stage"):
            raise ValueError(
                f"a stage's subsets are by 'tensor', 'layer' or 'stage', or a mapping of names to what is in each, got "
                f"{self.by!r}."
            )
        if self.microbatches < 1:
            raise ValueError(f"a summary must be of 1 microbatch or more, got {self.microbatches}.")

    def partition(self, shapes: Shapes) -> ParameterPartition:
        """The subsets of a stage, or of the whole network.

        Args:
            shapes: of the parameters that learn, by their names in the whole network.

        Raises:
            ValueError: subsets of one's own miss or repeat a parameter.
        """
        match self.by:
            case "tensor":
                return ParameterPartition.by_tensor(shapes)
            case "layer":
                return ParameterPartition.by_layer(shapes)
            case "stage":
                return ParameterPartition.as_one(shapes)
        assert not isinstance(self.by, str)
        there = {own: [name for name in names if _is_there(name, shapes)] for own, names in self.by.items()}
        return ParameterPartition.by_name(shapes, {own: names for own, names in there.items() if names})


def _is_there(name: str, shapes: Shapes) -> bool:
    return any(own == name or own.startswith(f"{name}.") for own in shapes)


@dataclass(frozen=True, kw_only=True)
class StageBatch:
    """A microbatch as a stage has it."""

    x: Members
    """The stage's input, (N, *F) or a tuple of such."""
    signal: Signal
    """What the source is told."""


def summarise_stage(
    module: nn.Module,
    source: object,
    batches: Sequence[StageBatch],
    direction: Mapping[str, Tensor],
    partition: ParameterPartition,
    *,
    parameters: Mapping[str, Tensor] | None = None,
) -> Summary:
    """The loss per sample that a stage sees, along a direction. Stage, source and their gradients stay as they are.

    Of a chain of known layers, or of sums of such, by Taylor series (`summarise_chain`); of other modules by
    `summarise`.

    Args:
        module: the stage's. In training it must compute as in evaluation: no dropout, no BatchNorm.
        source: at its output, built; must imply a loss.
        batches: at least one.
        direction: u, of the partition's names and shapes.
        partition: of parameters of the module, all or some, by their names in it.
        parameters: values in the place of the module's own.

    Raises:
        TypeError: the source implies no loss, or the module cannot be copied.
        ValueError: as `summarise`, `loss_parts` and `implied_loss`.
    """
    twin = twin_of(module)
    own = dict(twin.named_parameters())
    with torch.no_grad():
        for name, value in (parameters or {}).items():
            own[name].copy_(value)
    count = sum(num_samples(batch.x) for batch in batches)
    seen = [(batch, _SeenLoss(source, batch.signal, count)) for batch in batches]
    if all(isinstance(batch.x, Tensor) for batch in batches) and is_chain(twin, batches[0].x):  # type: ignore[arg-type]
        parts = [
            summarise_chain(twin, loss, batch.x, batch.signal.target, direction, partition)  # type: ignore[arg-type]
            for batch, loss in seen
        ]
        return replace(
            parts[0],
            gradient=torch.stack([part.gradient for part in parts]).sum(0),
            hessian=torch.stack([part.hessian for part in parts]).sum(0),
            third=torch.stack([part.third for part in parts]).sum(0),
        )
    losses = [part for batch, loss in seen for part in loss_parts(twin, loss, batch.x, batch.signal.target)]
    return summarise(losses, {name: own[name] for name in partition.shapes}, direction, partition)


@dataclass(frozen=True, slots=True)
class _SeenLoss:
    """The share of one microbatch in the loss per sample, as a function of h and the labels."""

    source: object
    signal: Signal
    num_samples: int
    """Of all microbatches."""

    def __call__(self, h: Members, target: Tensor | None) -> Tensor:
        return implied_loss(self.source, h, replace(self.signal, target=target)) / self.num_samples
