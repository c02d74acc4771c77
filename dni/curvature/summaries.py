"""What are the derivatives of a loss with respect to one step size per subset of the parameters?

With psi(e) = L(theta + sum_s e_s u_s), u_s the part of a direction u that is in subset s, the summary of order d is
the derivative of order d of psi at 0: S^d numbers instead of P^d. A step goes against u, to theta - sum_s eta_s u_s:
u is what an optimiser subtracts, as a gradient. (Of the opposite u, rates have the other sign; the step is the same.)

This is the reference, for any module; for chains of the usual layers `dni.curvature.taylor` gives the same for less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from dni.curvature.loss_parts import Loss, NoDerivativesError
from dni.curvature.partition import ParameterPartition

__all__ = ["Summary", "derivatives_along", "summarise", "summary_tensor"]

_NO_FURTHER = "torch::autograd::Error"
"""The node that autograd leaves where a derivative cannot be differentiated."""
_OfSteps: TypeAlias = Callable[[Tensor | Sequence[Tensor]], Tensor]
"""Step sizes, (S,) or S scalars -> something."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Summary:
    """The loss along one direction, by subset, to third order. All in float64 on the CPU, where it is solved.

    Raises:
        NoDerivativesError: something in it is not finite.
    """

    names: tuple[str, ...]
    """Of the S subsets."""
    gradient: Tensor
    """g_s = <dL/dtheta_s, u_s>, (S,). Positive where a step against u goes downhill."""
    hessian: Tensor
    """H_st = u_s' (d2L/dtheta_s dtheta_t) u_t, (S, S), symmetric."""
    third: Tensor
    """D_sss, the diagonal of the third order: the third derivative along u_s, (S,)."""

    def __post_init__(self) -> None:
        for order, own in (("first", self.gradient), ("second", self.hessian), ("third", self.third)):
            if not bool(own.isfinite().all()):
                bad = (~own.isfinite()).reshape(len(self.names), -1).any(1).nonzero().flatten().tolist()
                raise NoDerivativesError(
                    f"the derivatives of {order} order must be finite, but are not in {_listed(self.names, bad)}. "
                    "Either a parameter or the direction is not finite, or the loss is not smooth here (a root at 0)."
                )

    @property
    def flat(self) -> Tensor:
        """Subsets along which the loss does not change at all, to third order, whatever the others do: bool, (S,)."""
        return (self.gradient == 0) & (self.hessian == 0).all(1) & (self.third == 0)

    def of(self, subsets: Sequence[int]) -> Summary:
        """Of some subsets alone; the others stand still."""
        at = torch.tensor(subsets, dtype=torch.long)
        return replace(
            self,
            names=tuple(self.names[index] for index in subsets),
            gradient=self.gradient[at],
            hessian=self.hessian[at][:, at],
            third=self.third[at],
        )

    def mixed(self, other: Summary, share: float) -> Summary:
        """`share` of another one in this: running averages of all three orders."""
        return replace(
            self,
            gradient=torch.lerp(self.gradient, other.gradient, share),
            hessian=torch.lerp(self.hessian, other.hessian, share),
            third=torch.lerp(self.third, other.third, share),
        )


def summarise(
    losses: Sequence[Loss],
    parameters: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    partition: ParameterPartition,
) -> Summary:
    """Gradient, Hessian and the diagonal of the third order, exactly.

    One forward and 2S + 1 backward passes for each part of the loss; the graph of the first backward pass is kept, so
    memory grows with the samples of a part. (All subsets in one pass, with vmap, was slower: cotangents of weights have
    an axis of subsets then.)

    Source: Wolinski 2023 (arXiv 2312.03885): g = I_{S:P} U dL/dtheta, H = I_{S:P} U (d2L/dtheta2) U I_{P:S}, D_sss.
    Differs: by backward passes with respect to the step sizes e, so that a subset may be part of a tensor.

    Args:
        losses: what adds up to the loss (`loss_parts`).
        parameters: by name; any dtype and device. Not changed.
        direction: u, of the same names and shapes: the gradient, what an optimiser subtracts, anything.
        partition: of those parameters.

    Raises:
        ValueError: names or shapes differ, a derivative is not finite, or there is none of that order.
    """
    partition.check("the parameters", parameters)
    partition.check("the direction", direction)
    origin = _origin(parameters, partition)
    size = partition.num_subsets
    gradient, rows, third = (torch.zeros(shape, dtype=torch.float64) for shape in ((size,), (size, size), (size,)))
    for loss in losses:
        value = _along(loss, parameters, direction, partition)
        with torch.enable_grad():
            steps = [
                each.requires_grad_() for each in origin.unbind()
            ]  # a leaf each: what it does not move is left out
            first = _slopes(value(steps), steps, further=True)
            _check_further(first)
            gradient += _exact(torch.stack(first))
            for s in range(size):
                row = _slopes(first[s], steps, further=True)
                if s == 0:
                    _check_further(row[:1])
                rows[s] += _exact(torch.stack(row))
                third[s] += _exact(_slopes(row[s], [steps[s]], further=False)[0])
    # Of what is no loss (a synthesizer's gradients) the rows are not symmetric, and a line sees their symmetric part.
    return Summary(names=partition.names, gradient=gradient, hessian=(rows + rows.T) / 2, third=third)


def summary_tensor(
    losses: Sequence[Loss],
    parameters: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    partition: ParameterPartition,
    *,
    order: int,
) -> Tensor:
    """The whole tensor of some order, with all interactions: (S, ..., S), float64.

    Source: Wolinski 2023, D^(d)_{s1..sd}. The time is that of S^(d-1) gradients; take few subsets.

    Args:
        order: d, at least 1.

    Raises:
        ValueError: as `summarise`; or the order is none.
    """
    if order < 1:
        raise ValueError(f"the order of a derivative must be at least 1, got {order}.")
    partition.check("the parameters", parameters)
    partition.check("the direction", direction)
    origin = _origin(parameters, partition)
    total = torch.zeros((partition.num_subsets,) * order, dtype=torch.float64)
    for loss in losses:
        function: _OfSteps = grad(_along(loss, parameters, direction, partition))
        for _ in range(order - 1):
            function = jacrev(function)
        total += _exact(function(origin))
    return total


def derivatives_along(
    losses: Sequence[Loss],
    parameters: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    partition: ParameterPartition,
    *,
    order: int,
    subsets_at_once: int | None = None,
) -> Tensor:
    """The diagonals of all orders up to d: the derivatives along each subset's direction alone.

    Returns:
        (order, S), float64: row k is the diagonal of the tensor of order k + 1.

    Raises:
        ValueError: as `summary_tensor`.
    """
    if order < 1:
        raise ValueError(f"the order of a derivative must be at least 1, got {order}.")
    partition.check("the parameters", parameters)
    partition.check("the direction", direction)
    origin = _origin(parameters, partition)
    total = torch.zeros((order, partition.num_subsets), dtype=torch.float64)
    for loss in losses:
        value = _along(loss, parameters, direction, partition)

        def column(e: Tensor, value: _OfSteps = value) -> Tensor:
            function, found = value, []
            for _ in range(order):
                function = _slope_along(function, e)
                found.append(function(origin))
            return torch.stack(found)

        columns = vmap(column, chunk_size=subsets_at_once, randomness="same")(
            torch.eye(partition.num_subsets).to(origin)
        )
        total += _exact(columns.T)
    return total


def _slopes(value: Tensor, steps: Sequence[Tensor], *, further: bool) -> tuple[Tensor, ...]:
    """Derivatives, zero where nothing depends on a step; if `further`, they can be differentiated again."""
    if not value.requires_grad:
        return tuple(map(torch.zeros_like, steps))
    return torch.autograd.grad(value, steps, retain_graph=True, create_graph=further, materialize_grads=True)


def _check_further(values: Sequence[Tensor]) -> None:
    """Raise where autograd cannot go on, which it would take for a derivative of zero.

    Raises:
        ValueError: a function in the module says that it can be differentiated once only.
    """
    nodes, seen = [value.grad_fn for value in values], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node.name() == _NO_FURTHER:
            raise ValueError(
                "the loss must have three derivatives, but a torch.autograd.Function in it is marked with "
                "once_differentiable. Write its backward in operations that autograd knows."
            )
        seen.add(node)
        nodes += [before for before, _ in node.next_functions]


def _slope_along(function: _OfSteps, e: Tensor) -> _OfSteps:
    """The derivative along e. Backward: not every layer can be differentiated forward more than once (SiLU)."""
    return lambda steps: grad(function)(steps) @ e


def _along(
    loss: Loss, parameters: Mapping[str, Tensor], direction: Mapping[str, Tensor], partition: ParameterPartition
) -> _OfSteps:
    """psi: the loss as a function of the step sizes."""
    at = {name: own.detach() for name, own in parameters.items()}
    u = {name: own.detach().to(at[name]) for name, own in direction.items()}

    def value(steps: Tensor | Sequence[Tensor]) -> Tensor:
        spread = partition.spread(steps)
        return loss({name: own + spread[name].to(own) * u[name] for name, own in at.items()})

    return value


def _origin(parameters: Mapping[str, Tensor], partition: ParameterPartition) -> Tensor:
    """No step, (S,), in the widest dtype of the parameters."""
    dtype = torch.float32
    for own in parameters.values():
        dtype = torch.promote_types(dtype, own.dtype)
    return torch.zeros(partition.num_subsets, dtype=dtype, device=next(iter(parameters.values())).device)


def _exact(found: Tensor) -> Tensor:
    return found.detach().cpu().to(torch.float64)


def _listed(names: Sequence[str], some: Sequence[int]) -> str:
    return ", ".join(names[index] for index in some)
