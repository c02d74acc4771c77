"""Which blocks does each stage of a run have, and can they be what they are asked to be?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature

import torch
from torch import nn
from torch.optim import Optimizer

from dni import (
    REST,
    Block,
    BlockCadence,
    Cadence,
    Layout,
    Pace,
    Participation,
    Periodic,
    Piece,
    Shapes,
    split_by_layer,
    split_in_blocks,
)
from pipeline.configuration.partition import Partition
from pipeline.errors import ConfigurationError
from pipeline.learners.updater import OptimizerFactory
from pipeline.randomness.keyed import key, undisturbed

__all__ = [
    "Draws",
    "StageBlocks",
    "blocks_of",
    "check_blocks",
    "check_optimizer",
    "check_participation",
    "layout_of",
    "with_attached",
]


_MOST_FORESEEN = 1000
"""Steps that are looked at to see who learns."""


@dataclass(frozen=True)
class Draws:
    """Numbers in [0, 1) that belong to (seed, name, step)."""

    seed: int

    def __call__(self, block: str, step: int) -> float:
        return key(self.seed, f"cadence/{block}", step) / 2**63


@dataclass(frozen=True)
class StageBlocks:
    """What one stage is divided into."""

    cadences: dict[str, Cadence]
    """By block."""
    blocks: tuple[Block, ...] = ()
    """Empty: the stage is one block."""
    drifting: frozenset[str] = frozenset()
    """Names of those that go on along their momentum between updates."""

    @property
    def period(self) -> int | None:
        """The one period of all of them; None: they have cadences of other kinds, or more than one."""
        periods = {cadence.period if isinstance(cadence, Periodic) else None for cadence in self.cadences.values()}
        return periods.pop() if len(periods) == 1 and not self.drifting else None

    @property
    def pieces(self) -> list[Piece]:
        """Those of all blocks."""
        return [piece for block in self.blocks for piece in block.pieces]

    def pace(self, *, takes_every: int, seed: int) -> Pace:
        """The windows of a stage that is about to begin."""
        return Pace(self.cadences, takes_every=takes_every, draw=Draws(seed), drifting=self.drifting)


def blocks_of(
    cut: Partition, chosen: Sequence[BlockCadence], periods: Sequence[int], *, by_layer: bool = False
) -> tuple[StageBlocks, ...]:
    """Per stage, the blocks that lie in it; one that spans stages is divided, and keeps its name and its cadence.

    Args:
        cut: the stages.
        chosen: the blocks with cadences of their own.
        periods: per stage, the period of all that they do not name.
        by_layer: whether what they do not name is divided into layers.

    Raises:
        ConfigurationError: a selector names nothing, or blocks overlap.
    """
    if not (chosen or by_layer):
        return tuple(StageBlocks({REST: Periodic(period)}) for period in periods)
    stages = [_shapes(cut, index) for index in range(len(cut))]
    shapes = {name: shape for stage in stages for name, shape in stage.items()}
    try:
        paired = [pair for block_cadence in chosen for pair in block_cadence.pair(shapes)]
        drifting = {block.name for each in chosen if each.drifts for block in each.selector.select(shapes)}
        rest = split_in_blocks(shapes, [block for block, _ in paired])
    except ValueError as error:
        raise ConfigurationError(f"blocks: {error}") from error
    others = split_by_layer(rest.pieces) if by_layer else [rest]
    place = {name: (index, order) for index, stage in enumerate(stages) for order, name in enumerate(stage)}
    parts: list[list[tuple[Block, Cadence | None]]] = [[] for _ in stages]
    for block, cadence in (*paired, *((other, None) for other in others)):
        lying: dict[int, list[Piece]] = {}
        for piece in block.pieces:
            lying.setdefault(place[piece.parameter][0], []).append(piece)
        for index, pieces in lying.items():
            parts[index].append((Block(block.name, tuple(pieces)), cadence))
    if by_layer:  # from the input up, whichever were named
        for part in parts:
            part.sort(key=lambda each: place[each[0].pieces[0].parameter])
    return tuple(_of_stage(part, period, drifting) for part, period in zip(parts, periods, strict=True))


def with_attached(blocks: Sequence[Block], names: Iterable[str]) -> tuple[Block, ...]:
    """The blocks of a stage to which parts were attached: what is new learns with the layer that it is attached to.

    Args:
        blocks: as before; none: the stage is one block.
        names: global names of the parameters that learn now.
    """
    held = {piece.parameter: block.name for block in blocks for piece in block.pieces}
    joining: dict[str, list[Piece]] = {}
    for name in names if blocks else ():
        layer = name
        while name not in held and layer:
            layer = layer.rpartition(".")[0]
            beside = (own for other, own in held.items() if layer and other.startswith(f"{layer}."))
            if (block := next(beside, None)) is not None:
                joining.setdefault(block, []).append(Piece(name))
                break
    return tuple(Block(block.name, (*block.pieces, *joining.get(block.name, ()))) for block in blocks)


def layout_of(stages: Sequence[StageBlocks]) -> Layout:
    """The blocks by name, for who says which learn; those of a stage from the input up."""
    return Layout(tuple(tuple(block.name for block in stage.blocks) for stage in stages))


def check_blocks(stages: Sequence[StageBlocks], *, steps: int, takes_every: Sequence[int], seed: int) -> None:
    """Refuse a cadence that never falls due within the run, as far as that can be foreseen.

    Raises:
        ConfigurationError: names the block.
    """
    for index, (stage, every) in enumerate(zip(stages, takes_every, strict=True)):
        for name in (each for each in stage.cadences if each != REST):
            foreseen = Pace({name: stage.cadences[name]}, takes_every=every, draw=Draws(seed)).foreseen
            if not any(map(foreseen.due, range(every - 1, steps, every))):
                names = ", ".join(stage.cadences)
                raise ConfigurationError(
                    f"blocks: {name} in stage {index} would never be updated: {stage.cadences[name]} does not fall due "
                    f"in the {steps // every} steps that the stage gets (blocks there: {names}). Shorten its period, "
                    "or freeze what is not to learn (requires_grad_(False))."
                )


def check_participation(policy: Participation, stages: Sequence[StageBlocks], *, steps: int, seed: int) -> None:
    """Refuse a policy that names what is not there, or that lets nothing learn within the run.

    Raises:
        ConfigurationError: lists the blocks.
    """
    layout, draw = layout_of(stages), Draws(seed)
    try:
        policy.check(layout)
        learning = [policy.learning(step, layout, draw) for step in range(min(steps, _MOST_FORESEEN))]
        layout.check(*{block for blocks in learning for block in blocks})
    except ValueError as error:
        raise ConfigurationError(f"participation: {error}") from error
    if not any(learning):
        raise ConfigurationError(
            f"participation: {policy} lets no block learn in the {len(learning)} steps looked at; the blocks are "
            f"{', '.join(layout.blocks)}."
        )


def check_optimizer(factory: OptimizerFactory, stage: nn.Module, names: dict[str, str], blocks: StageBlocks) -> None:
    """Refuse an optimiser that cannot be made, or cannot learn the blocks of a stage as if they were whole.

    A weight may be cut only for an optimiser that treats each element by itself; whether it does is tried out.

    Raises:
        ConfigurationError: says what to use instead.
    """
    shapes = [tuple(p.shape) for p in stage.parameters() if p.requires_grad] or [(1,)]
    optimizer = _made(factory, [nn.Parameter(torch.zeros(1).expand(shape)) for shape in shapes])
    kind = type(optimizer).__name__
    closure = signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is Parameter.empty:
        raise ConfigurationError(
            f"the optimiser {kind} asks for a closure that evaluates the loss again, which no stage can do by itself. "
            "Use one that steps from the gradients alone (SGD, Adam, AdamW)."
        )
    if blocks.drifting and not _has_plain_momentum(optimizer):
        raise ConfigurationError(
            f"blocks: {', '.join(sorted(blocks.drifting))} drift along the momentum of SGD between their updates, and "
            f"the optimiser is {kind} {_settings(optimizer)}. Use torch.optim.SGD with momentum above 0, without "
            "nesterov or maximize; or drifts=False."
        )
    own = {names[name]: parameter.shape for name, parameter in stage.named_parameters()}
    cut = [piece for piece in blocks.pieces if piece.box]
    strided = [piece.name for piece in cut if not piece.is_contiguous(own[piece.parameter])]
    if strided and any(group.get("fused") for group in optimizer.param_groups):
        raise ConfigurationError(
            f"blocks: {strided[0]} is not one stretch of memory, and fused {kind} writes wrong values into such slices "
            "without an error (seen with torch 2.13). Use fused=False (foreach is exact), or Rows."
        )
    if cut and not _is_elementwise(factory, strided=bool(strided)):
        raise ConfigurationError(
            f"blocks: {cut[0].name} is a part of a weight, and {kind} makes of the parts another update than of the "
            "whole: it does not treat each element by itself (as Muon and Adafactor do not), or draws. Name whole "
            "tensors (Layer, Parameter), or use SGD, Adam or AdamW."
        )


def _shapes(cut: Partition, index: int) -> Shapes:
    names = cut.names(index)
    return {names[n]: tuple(p.shape) for n, p in cut.stages[index].named_parameters() if p.requires_grad}


def _of_stage(parts: Sequence[tuple[Block, Cadence | None]], period: int, drifting: Collection[str]) -> StageBlocks:
    """The blocks that lie in one stage; those without a cadence have the stage's."""
    cadences = {block.name: cadence or Periodic(period) for block, cadence in parts}
    if cadences.keys() <= {REST}:
        return StageBlocks({REST: Periodic(period)})
    return StageBlocks(cadences, tuple(block for block, _ in parts), frozenset(cadences.keys() & drifting))


def _made(factory: OptimizerFactory, parameters: list[nn.Parameter]) -> Optimizer:
    try:
        return factory(parameters)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the optimiser {factory} cannot be made: {error}.") from error


def _has_plain_momentum(optimizer: Optimizer) -> bool:
    groups = optimizer.param_groups
    plain = all(group.get("momentum") and not (group.get("nesterov") or group.get("maximize")) for group in groups)
    return isinstance(optimizer, torch.optim.SGD) and plain


def _settings(optimizer: Optimizer) -> str:
    named = ("momentum", "nesterov", "maximize")
    return ", ".join(f"{name}={value}" for name, value in optimizer.param_groups[0].items() if name in named)


def _is_elementwise(factory: OptimizerFactory, *, strided: bool) -> bool:
    """Whether a small weight in parts, as the blocks are, learns what the whole one learns."""
    whole = nn.Parameter(torch.arange(1.0, 37.0, dtype=torch.float64).reshape(6, 6) / 36.0)
    other = whole.detach().clone()
    boxes = [other[:3, :3], other[:3, 3:], other[3:, :3], other[3:, 3:]] if strided else [other[:3], other[3:]]
    parts = [nn.Parameter(box) for box in boxes]
    drawn = torch.Generator().manual_seed(0)
    with undisturbed():
        one, several = _made(factory, [whole]), _made(factory, parts)
        for _ in range(3):
            gradient = torch.randn(6, 6, generator=drawn, dtype=torch.float64)
            whole.grad = gradient.clone()
            boxes = [gradient[:3, :3], gradient[:3, 3:], gradient[3:, :3], gradient[3:, 3:]]
            for part, box in zip(parts, boxes if strided else [gradient[:3], gradient[3:]], strict=True):
                part.grad = box
            one.step()
            several.step()
    return torch.allclose(whole.detach(), other, rtol=1e-9, atol=1e-12)
