"""Along which directions is a loss looked at?

A *point* is tensors by name: `dict(module.named_parameters())`, a checkpoint, or a layer's output. A *direction* is
tensors by name, shaped like those of the point that it moves; what it does not name stays. A gradient is one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from dni.structure.keyed import Keyed, draw_normal

__all__ = [
    "Point",
    "between",
    "check_direction",
    "filter_normalized",
    "moved",
    "optimizer_step",
    "random_direction",
    "scaled_to",
]

Point: TypeAlias = Mapping[str, Tensor]
"""Tensors by name."""


def random_direction(point: Point, keyed: Keyed) -> dict[str, Tensor]:
    """Numbers from N(0, 1), each tensor's by its name alone; integer tensors are left out."""
    return {
        name: draw_normal(keyed, name, value.detach()) for name, value in point.items() if value.is_floating_point()
    }


def filter_normalized(direction: Point, point: Point) -> dict[str, Tensor]:
    """Scale each filter of a direction to the norm of the same filter of the point: d_i ← d_i ‖θ_i‖ / ‖d_i‖.

    A filter is what one entry of the first axis holds: a neuron's weights of (out, in), a channel's of (out, in, k, k).
    Tensors of fewer than two axes (biases, norms' scales) do not move: the direction is 0 there. Then slices of nets
    whose weights differ in scale, where a norm undoes it, can be compared.
    Source: Li et al. 2018 (arXiv 1712.09913), section 4. Differs: nothing is added to ‖d_i‖; a filter that is 0 stays.
    (A transposed convolution has its filters along the second axis; move it there first.)

    Args:
        direction: d, each tensor shaped like the point's of that name.
        point: θ.

    Raises:
        ValueError: as `check_direction`.
    """
    check_direction(direction, point)
    return {name: _filters_scaled(own.detach(), point[name].detach()) for name, own in direction.items()}


def scaled_to(direction: Point, norm: float) -> dict[str, Tensor]:
    """A direction of this length, all its tensors as one vector. (Ilyas et al. 2020 take a random one of norm 2.)

    Raises:
        ValueError: the direction is 0 or not finite.
    """
    length = float(torch.stack([own.detach().double().square().sum().cpu() for own in direction.values()]).sum().sqrt())
    if not 0.0 < length < float("inf"):
        raise ValueError(f"a direction must have a finite length greater than 0 to be scaled to {norm}, got {length}.")
    return {name: own.detach() * (norm / length) for name, own in direction.items()}


def between(start: Point, end: Point) -> dict[str, Tensor]:
    """From one checkpoint to another, end - start: with it, step 0 of a slice from `start` is `start`, step 1 is `end`.

    Source: Goodfellow et al. 2015 (arXiv 1412.6544), linear interpolation. Integer tensors (counts of batches) are left
    out, and stay those of the start.

    Raises:
        ValueError: names or shapes do not agree.
    """
    if start.keys() != end.keys():
        apart = sorted(start.keys() ^ end.keys())
        raise ValueError(f"both checkpoints must have the same names; only one of them has {', '.join(apart)}.")
    floating = {name: value for name, value in start.items() if value.is_floating_point()}
    check_direction({name: end[name] for name in floating}, floating)
    return {name: end[name].detach().to(value) - value.detach() for name, value in floating.items()}


def optimizer_step(optimizer: Optimizer, parameters: Point, gradients: Point) -> dict[str, Tensor]:
    """The step that an optimiser would take now, with these gradients. It is not taken: a copy takes it.

    Args:
        optimizer: with its state; left as it is, as are its parameters and their `.grad`.
        parameters: those it holds that are looked at, by name.
        gradients: by name, of the averaged loss, as the optimiser is given them; what has none does not move, but for
            what the optimiser does without one.

    Returns:
        θ' - θ by name.

    Raises:
        ValueError: the optimiser does not hold a parameter, or as `check_direction` for the gradients.
    """
    check_direction(gradients, parameters)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    places = {id(parameter): place for place, parameter in enumerate(held)}
    if unknown := [name for name, parameter in parameters.items() if id(parameter) not in places]:
        raise ValueError(
            f"the optimiser must hold the parameters themselves whose step is asked for; it does not hold "
            f"{', '.join(unknown)}. Give those of its param_groups by name."
        )
    own = copy.deepcopy(optimizer)  # with its parameters, which are its alone from here on
    copies: Sequence[Tensor] = [parameter for group in own.param_groups for parameter in group["params"]]
    for parameter in copies:
        parameter.grad = None
    mine = {name: copies[places[id(parameter)]] for name, parameter in parameters.items()}
    for name, gradient in gradients.items():
        mine[name].grad = gradient.detach().to(mine[name]).clone()
    own.step()
    return {name: mine[name].detach() - parameter.detach() for name, parameter in parameters.items()}


def moved(point: Point, directions: Sequence[Point], steps: Sequence[float]) -> dict[str, Tensor]:
    """θ + Σ_k a_k d_k, new tensors where a direction moves one."""
    found = {name: value.detach() for name, value in point.items()}
    for direction, step in zip(directions, steps, strict=True):
        for name, own in direction.items():
            found[name] = found[name] + step * own.detach().to(found[name])
    return found


def check_direction(direction: Point, point: Point) -> None:
    """Raise `ValueError` unless a direction can move the point."""
    for name, own in direction.items():
        if name not in point or point[name].shape != own.shape or not point[name].is_floating_point():
            there = f"{point[name].dtype} {tuple(point[name].shape)}" if name in point else "none of that name"
            raise ValueError(
                f"a direction must be shaped like the tensors that it moves, floating point, got {tuple(own.shape)} "
                f"for {name}, where the point has {there}. Take names and shapes from the point."
            )
        if not bool(own.isfinite().all()):
            raise ValueError(f"a direction must be finite, got numbers that are not in {name}. Has the run diverged?")


def _filters_scaled(own: Tensor, weight: Tensor) -> Tensor:
    if own.dim() < 2:
        return torch.zeros_like(own)
    length, wanted = (value.double().flatten(1).norm(dim=1) for value in (own, weight.to(own.device)))
    factor = torch.where(length > 0, wanted / length, torch.zeros_like(length))
    return (own.double() * factor.view(-1, *[1] * (own.dim() - 1))).to(own.dtype)
