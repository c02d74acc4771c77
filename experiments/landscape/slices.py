"""What does a step do to the true loss, and what does the used gradient make of the same step?

Source: Ilyas et al. 2020 (arXiv 1811.02553), figures 6 to 8, carried to synthetic gradients: the surrogate is the loss
that the used gradient implies along the slice (`dni.Implied`). A step of 1 along an update is one real step of the
run's optimisers. Differs: a random direction is filter-normalised instead of one of norm 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dni import Implied, LossSlice, filter_normalized, random_direction, slice_line, slice_plane
from experiments.landscape.config import NUM_STAGES, Settings
from experiments.landscape.frozen import Frozen, stage_of

__all__ = ["LINES", "PLANE_STEPS", "Line", "cut_lines", "cut_planes", "find_lowest"]

Line: TypeAlias = dict[str, list[float]]
"""`steps`, the `true` loss, the change that is `implied` (not of every line), and the `length` of a step of 1."""

STEPS = (-16.0, -8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
RANDOM_STEPS = (-0.5, -0.25, -0.125, -0.0625, -0.03125, 0.0, 0.03125, 0.0625, 0.125, 0.25, 0.5)
"""Along a random direction; at 1 each filter is moved by its own length."""
LINES: Mapping[str, Sequence[float]] = {
    "used": STEPS,
    "true": STEPS,
    "used, below the last": STEPS,
    "random": RANDOM_STEPS,
    "random, below the last": RANDOM_STEPS,
}
"""By direction: the step with the used gradient of the run's next microbatch, with the true one of the same, and a
random one; below the last: the last stage, whose gradient is exact, stays where it is."""
LOWEST_STEPS = tuple(0.25 * 2 ** (k / 2) for k in range(25))
"""From a quarter of a real step to a thousand, where the lowest loss is looked for."""
PLANE_STEPS = ((-4.0, -2.0, 0.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0), (-0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4))
"""Real steps with the used gradient, and along the random direction."""
_NUM_NODES = 2
"""Of the quadrature from one step of a line to the next; with the true gradient the implied loss is to be the true."""
_NUM_PLANE_NODES = 3
"""From the start to each point of a plane."""

Point = Mapping[str, Tensor]
Batch = tuple[Tensor, Tensor]


def cut_lines(frozen: Frozen, updates: Mapping[str, Point], batch: Batch) -> dict[str, Line]:
    """The lines of LINES.

    Args:
        frozen: what is looked at.
        updates: real steps, by the gradient that they are taken with: `used` and `true`.
        batch: training samples that both losses are of.
    """
    losses = {
        "true": frozen.true_loss([batch]),
        "implied": Implied(field=frozen.used_gradient([batch]), num_nodes=_NUM_NODES),
    }
    directions = {**updates, "random": _random(frozen)}
    found: dict[str, Line] = {}
    for name, steps in LINES.items():
        kind, _, lower = name.partition(", ")
        direction = _below_the_last(directions[kind]) if lower else directions[kind]
        line = slice_line(losses, frozen.point, direction, steps=steps)
        found[name] = _line(line, direction)
    return found


def find_lowest(frozen: Frozen, updates: Mapping[str, Point], batch: Batch) -> dict[str, Line]:
    """The true loss along real steps, far: by update."""
    losses = {"true": frozen.true_loss([batch])}
    found: dict[str, Line] = {}
    for name, update in updates.items():
        line = slice_line(losses, frozen.point, update, steps=(0.0, *LOWEST_STEPS))
        found[name] = _line(line, update)
    return found


def cut_planes(frozen: Frozen, update: Point, batch: Batch, settings: Settings) -> dict[str, Any]:
    """The plane of a real step with the used gradient and a random direction: both losses, rows are real steps."""
    few = (batch[0][: settings.num_plane_samples], batch[1][: settings.num_plane_samples])
    losses = {
        "true": frozen.true_loss([few]),
        "implied": Implied(field=frozen.used_gradient([few]), num_nodes=_NUM_PLANE_NODES),
    }
    plane = slice_plane(losses, frozen.point, (update, _random(frozen)), steps=PLANE_STEPS)
    return {name: [_rounded(row) for row in values] for name, values in plane.values.items()}


def _line(line: LossSlice, direction: Point) -> Line:
    length = torch.cat([own.flatten() for own in direction.values()]).norm()
    values = {name: _rounded(own) for name, own in line.values.items()}
    return {"steps": list(line.steps[0]), "length": _rounded(length[None]), **values}


def _random(frozen: Frozen) -> dict[str, Tensor]:
    point = frozen.point
    return filter_normalized(random_direction(point, lambda name: frozen.draw(f"direction {name}")), point)


def _below_the_last(direction: Point) -> dict[str, Tensor]:
    return {name: own for name, own in direction.items() if stage_of(name) < NUM_STAGES - 1}


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]
