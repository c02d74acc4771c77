"""What are a loss, and the losses that gradients imply, along a line or on a plane through a point?

The true loss is asked at each point. A gradient field that is no loss's (a synthesizer's) implies one along a path, its
line integral; along a slice both start at 0 where the slice begins, so what they make of the same move can be compared.
Nothing is changed: points are new tensors, and whoever evaluates them is given those.

Letters: θ the point, d directions, a and b steps along them, S steps, K nodes of a quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from dni.landscape.direction import Point, check_direction, moved

__all__ = ["Field", "Implied", "Loss", "LossSlice", "OnProgress", "keep_going", "slice_line", "slice_plane"]

Loss: TypeAlias = Callable[[Point], float]
"""The loss per sample at a point, always on the same samples. Must change nothing."""
Field: TypeAlias = Callable[[Point], Point]
"""A gradient per sample at a point, by name; what it does not name is taken for 0. Must change nothing."""
OnProgress: TypeAlias = Callable[[int, int], bool]
"""Is told how many points are done, of how many, and answers whether to go on."""


def keep_going(done: int, total: int) -> bool:
    """Nobody looks."""
    return True


@dataclass(frozen=True, kw_only=True)
class Implied:
    """The loss whose gradient a field would be: its change from the start of a slice, ∫ ⟨g(θ + t m), m⟩ dt over t in
    [0, 1], for a move m.

    A field that is no gradient of anything gives another value on another path. Along a line, the path is the line; on
    a plane it is the straight one from the start to each point.
    Source: Czarnecki et al. 2017 (arXiv 1703.00522), the loss implied by a synthetic gradient.
    """

    field: Field
    num_nodes: int = 3
    """K, of Gauss and Legendre's rule, at least 1: from each step of a line to the next, or from the start to each
    point of a plane. Exact where ⟨g, m⟩ is a polynomial of degree 2K - 1 along the path: a linear synthesizer at the
    output of a linear stage needs 1. A rough loss needs more: double it, and see whether the values stay."""

    def __post_init__(self) -> None:
        if self.num_nodes < 1:
            raise ValueError(f"a line integral must have at least 1 node, got {self.num_nodes}.")


@dataclass(frozen=True, kw_only=True)
class LossSlice:
    """Losses over a line or a plane."""

    steps: tuple[tuple[float, ...], ...]
    """Along each direction."""
    values: dict[str, Tensor]
    """By loss, (S,) or (S, S'), float64; NaN where it was not evaluated. A true loss is per sample as it is; an implied
    one is its change from the start, 0 there."""
    complete: bool
    """Whether all was evaluated; not so if `progress` said no."""


def slice_line(
    losses: Mapping[str, Loss | Implied],
    point: Point,
    direction: Point,
    *,
    steps: Sequence[float],
    progress: OnProgress = keep_going,
) -> LossSlice:
    """Losses at θ + a d.

    Args:
        losses: by name.
        point: θ, the start.
        direction: d, of any length: a step of 1 is d itself.
        steps: values of a, at least one, finite.
        progress: is asked after every step. Implied losses are integrated outwards from 0, so that is the order.

    Returns:
        Values over the steps, in their order.

    Raises:
        ValueError: there are no losses or no steps, or the direction does not fit the point.
    """
    _check(losses, point, [direction], [steps])
    values = {name: torch.full((len(steps),), math.nan, dtype=torch.float64) for name in losses}
    ends: dict[tuple[str, bool], tuple[float, float]] = {}  # how far each side of an implied loss has come
    done = 0
    for place in sorted(range(len(steps)), key=lambda k: abs(steps[k])):
        step = float(steps[place])
        for name, loss in losses.items():
            if isinstance(loss, Implied):
                last, value = ends.get((name, step < 0), (0.0, 0.0))
                here = moved(point, [direction], [last])
                value += _line_integral(loss, here, _move([direction], [step - last]))
                ends[name, step < 0] = (step, value)
            else:
                value = float(loss(moved(point, [direction], [step])))
            values[name][place] = value
        done += 1
        if not progress(done, len(steps)):
            break
    return LossSlice(steps=(tuple(map(float, steps)),), values=values, complete=done == len(steps))


def slice_plane(
    losses: Mapping[str, Loss | Implied],
    point: Point,
    directions: tuple[Point, Point],
    *,
    steps: tuple[Sequence[float], Sequence[float]],
    progress: OnProgress = keep_going,
) -> LossSlice:
    """Losses at θ + a d + b d'.

    Args:
        losses: by name.
        point: θ, the start.
        directions: d and d'.
        steps: values of a and values of b.
        progress: is asked after every point, the nearest to the start first.

    Returns:
        Values over the steps: rows are a, columns b.

    Raises:
        ValueError: as `slice_line`.
    """
    _check(losses, point, directions, steps)
    shape = (len(steps[0]), len(steps[1]))
    values = {name: torch.full(shape, math.nan, dtype=torch.float64) for name in losses}
    spans = [max(map(abs, each)) or 1.0 for each in steps]
    grid = [(row, column) for row in range(shape[0]) for column in range(shape[1])]
    grid.sort(key=lambda at: math.hypot(steps[0][at[0]] / spans[0], steps[1][at[1]] / spans[1]))
    done = 0
    for row, column in grid:
        pair = [float(steps[0][row]), float(steps[1][column])]
        for name, loss in losses.items():
            if isinstance(loss, Implied):
                value = _line_integral(loss, point, _move(directions, pair))
            else:
                value = float(loss(moved(point, directions, pair)))
            values[name][row, column] = value
        done += 1
        if not progress(done, len(grid)):
            break
    spelled = tuple(tuple(map(float, each)) for each in steps)
    return LossSlice(steps=spelled, values=values, complete=done == len(grid))


def _move(directions: Sequence[Point], steps: Sequence[float]) -> dict[str, Tensor]:
    """Σ_k a_k d_k by name."""
    names = {name: own for direction in directions for name, own in direction.items()}
    return moved({name: torch.zeros_like(own) for name, own in names.items()}, directions, steps)


def _line_integral(implied: Implied, start: Point, move: Point) -> float:
    if not any(bool(own.any()) for own in move.values()):
        return 0.0
    nodes, weights = np.polynomial.legendre.leggauss(implied.num_nodes)
    total = 0.0
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        gradient = implied.field(moved(start, [move], [(node + 1.0) / 2.0]))
        total += weight / 2.0 * _dot(gradient, move)
    return total


def _dot(gradient: Point, move: Point) -> float:
    products = [
        (gradient[name].detach().double() * own.double().to(gradient[name].device)).sum().cpu()
        for name, own in move.items()
        if name in gradient
    ]
    return float(torch.stack(products).sum()) if products else 0.0


def _check(
    losses: Mapping[str, object], point: Point, directions: Sequence[Point], steps: Sequence[Sequence[float]]
) -> None:
    if not losses or not all(len(each) for each in steps):
        raise ValueError(f"a slice must have a loss and steps, got losses {list(losses)} and steps {steps}.")
    if not all(math.isfinite(step) for each in steps for step in each):
        raise ValueError(f"the steps of a slice must be finite, got {steps}.")
    for direction in directions:
        if not direction:
            raise ValueError("a direction must move something, got one without tensors. Take names from the point.")
        check_direction(direction, point)
