"""Which arrangements of cadences are compared, and how often does each update a parameter?"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from dni import (
    Block,
    BlockCadence,
    ByConfidence,
    Cadence,
    Layer,
    Periodic,
    Phases,
    Quadrants,
    Rows,
    Shapes,
    Window,
    by_depth,
    split_in_blocks,
)

__all__ = [
    "ARMS",
    "CONTROLS",
    "DIVIDED",
    "LONGEST",
    "UNIFORM",
    "Arm",
    "block_sizes",
    "foreseen_updates",
    "steps_for_updates",
]

LONGEST = 8
"""Steps between two updates of the slowest block, in every arm that has blocks."""
UNIFORM = "uniform"
"""The arm that the others are compared with."""
_QUARTERS = (1, 2, 4, 8)
"""Periods of the quarters of a weight: top left, top right, bottom left, bottom right."""

Divide = Callable[[Shapes, int], tuple[BlockCadence, ...]]
"""Cadences of parts of a network, by the shapes of its parameters and the steps of the run."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arrangement: who learns when."""

    title: str
    period: int = 1
    """In steps, of all that has no cadence of its own."""
    divide: Divide | None = None
    """None: the network is one block, a control."""


def _layers(shapes: Shapes) -> list[str]:
    """From the input up."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in shapes))


def _by_depth(shapes: Shapes, steps: int, *, fastest: str, growth: str) -> tuple[BlockCadence, ...]:
    return by_depth(_layers(shapes), longest=LONGEST, fastest=fastest, growth=growth)  # type: ignore[arg-type]


def _by_confidence(shapes: Shapes, steps: int) -> tuple[BlockCadence, ...]:
    return tuple(BlockCadence(Layer(layer), ByConfidence(longest=LONGEST)) for layer in _layers(shapes))


def _late(shapes: Shapes, steps: int) -> tuple[BlockCadence, ...]:
    """Uniform in the first half of the run, then the output fastest."""
    slow = by_depth(_layers(shapes), longest=LONGEST)
    return tuple(
        replace(each, cadence=Phases((steps // 2,), (Periodic(), each.cadence)))  # type: ignore[arg-type]
        for each in slow
    )


def _quadrants(shapes: Shapes, steps: int) -> tuple[BlockCadence, ...]:
    """The quadrants of each weight; quarters of the output channels where there are too few input channels to halve."""
    periods = tuple(map(Periodic, _QUARTERS))
    weights = [name for name, shape in shapes.items() if len(shape) > 1]
    return tuple(
        BlockCadence(Quadrants(name) if shapes[name][1] >= len(periods) else Rows(name, len(periods)), periods)
        for name in weights
    )


ARMS: Mapping[str, Arm] = {
    UNIFORM: Arm(title="uniform, every step"),
    "every_2": Arm(title="uniform, every 2", period=2),
    "every_4": Arm(title="uniform, every 4", period=4),
    "output_fastest": Arm(
        title="output fastest, geometric", divide=partial(_by_depth, fastest="output", growth="geometric")
    ),
    "output_fastest_linear": Arm(
        title="output fastest, linear", divide=partial(_by_depth, fastest="output", growth="linear")
    ),
    "input_fastest": Arm(
        title="input fastest, geometric", divide=partial(_by_depth, fastest="input", growth="geometric")
    ),
    "by_confidence": Arm(title="by confidence", divide=_by_confidence),
    "late": Arm(title="late only: then output fastest", divide=_late),
    "quadrants": Arm(title="quadrants", divide=_quadrants),
}
"""In the order of the tables."""
CONTROLS = tuple(name for name, arm in ARMS.items() if arm.divide is None)
"""One cadence for all: larger batches, and nothing else."""
DIVIDED = tuple(name for name in ARMS if name not in CONTROLS)


def block_sizes(arm: str, shapes: Shapes, steps: int) -> dict[str, int]:
    """The parameters in each block of an arm, by the block's name."""
    return {block.name: _size(block, shapes) for block, _ in _divided(arm, shapes, steps)}


def foreseen_updates(arm: str, shapes: Shapes, steps: int) -> float | None:
    """How many times a parameter is updated in a run of so many steps: the mean over all parameters.

    What is left at the end of the run is applied besides, at a rate of about 0, and not counted. None: the arm decides
    while it learns.
    """
    divided = _divided(arm, shapes, steps)
    if not all(cadence.foreseeable for _, cadence in divided):
        return None
    counts = {cadence: _num_updates(cadence, steps) for cadence in {cadence for _, cadence in divided}}
    sizes = [_size(block, shapes) for block, _ in divided]
    return sum(size * counts[cadence] for size, (_, cadence) in zip(sizes, divided, strict=True)) / sum(sizes)


def steps_for_updates(arm: str, shapes: Shapes, updates: int) -> int | None:
    """The fewest steps in which an arm updates its parameters so often, on the average; None: nobody can foresee it."""
    if foreseen_updates(arm, shapes, updates) is None:
        return None
    lengths = range(updates, LONGEST * updates + 1)  # no arm is faster than every step, or slower than its slowest
    enough = bisect_left(lengths, True, key=lambda steps: (foreseen_updates(arm, shapes, steps) or 0.0) >= updates)
    return lengths[enough]


def _divided(arm: str, shapes: Shapes, steps: int) -> list[tuple[Block, Cadence]]:
    """Every block with its cadence, the rest last, if there is one."""
    divide = ARMS[arm].divide
    paired = [pair for each in divide(shapes, steps) for pair in each.pair(shapes)] if divide is not None else []
    rest = split_in_blocks(shapes, [block for block, _ in paired])
    return [*paired, (rest, Periodic(ARMS[arm].period))] if rest.pieces else paired


def _num_updates(cadence: Cadence, steps: int) -> int:
    window = Window("any")  # what can be foreseen depends on the step alone
    return sum(cadence.due(step, window) for step in range(steps))


def _size(block: Block, shapes: Shapes) -> int:
    return sum(piece.of(torch.empty(shapes[piece.parameter], device="meta")).numel() for piece in block.pieces)
