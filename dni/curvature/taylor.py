"""What does a summary cost at least, for a chain of layers, or for layers with sums between them?

One forward pass, one backward pass without the gradients of weights (the adjoint lambda_l = dL/dz_l, shared by all
subsets), and for each subset a forward pass of two Taylor coefficients, from the first layer it changes on:

    h(e) = h + e h1_s + e^2 h2_s + ...

What a layer adds to an order of the loss beyond passing on the coefficient of that order is weighed with lambda_l and
summed, so the coefficient of the highest order is never formed, and neither are mixed ones:

    a = f(z):         H_st += sum lambda f'' z1_s z1_t           D_sss += sum lambda (6 f'' z1_s z2_s + f''' z1_s^3)
    z = (W + e u) h:  H_st += <lambda, u_s h1_t + u_t h1_s>      D_sss += 6 <lambda, u_s h2_s>

and the loss itself, a function of the output, adds its own. A sum adds coefficients (`taylor_steps` has the steps a
network consists of). Tensors of the subsets on their way are (A, N, *F).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from dni.curvature.loss_parts import Share, check_repeatable, shares_of, twin_of
from dni.curvature.partition import ParameterPartition
from dni.curvature.summaries import Summary
from dni.curvature.taylor_layers import WEIGHTED, derivatives_at, linear_at, weigh
from dni.curvature.taylor_steps import Step, steps_of, work_out_of_place

__all__ = ["is_chain", "summarise_chain"]

_NUM_WATCHED = 2
"""Samples on which it is seen what a module does that is no `nn.Sequential`."""


def is_chain(module: nn.Module, x: Tensor | None = None) -> bool:
    """Whether `summarise_chain` takes a module.

    Args:
        module: an `nn.Sequential`, nested or not, of layers of the kinds it knows, or one that only adds between them.
        x: samples for the module, of which the second kind needs some: what it does is seen in its forward. Without
            them only the first kind is found.
    """
    return _has_steps(module, None) or (x is not None and _has_steps(module, x[:_NUM_WATCHED]))


def summarise_chain(
    module: nn.Module,
    loss: Any,
    x: Tensor,
    target: Tensor | None,
    direction: Mapping[str, Tensor],
    partition: ParameterPartition,
    *,
    samples_at_once: int | None = None,
) -> Summary:
    """As `summarise` of `loss_parts`, for a chain of layers at the parameters it has, or one with sums (residuals).

    Kinds of layers: Linear, Conv, average pooling, MaxPool2d, Flatten, Identity, dropout in evaluation, and Tanh,
    Sigmoid, SiLU, GELU, Softplus, ELU, Mish, Softsign, ReLU, LeakyReLU. Any loss. Of a network cut into S subsets
    evenly along its depth it takes about (S + 2) / 3 times a forward and backward pass.

    Args:
        module: an `nn.Sequential`; of stages in one process, `nn.Sequential(*stages)`. Or any module whose forward
            calls such layers, once each, and adds what they give. Not changed.
        loss: of (output, target), a mean or a sum over samples.
        x: (N, *F).
        target: (N, ...).
        direction: u, of the partition's names and shapes.
        partition: of parameters of the module, all or some.
        samples_at_once: memory grows with it; the time hardly depends on it.

    Raises:
        TypeError: a layer is of another kind, has hooks, or is used twice; or between layers more is done than adding.
        ValueError: as `summarise` and `loss_parts`.
    """
    twin = twin_of(module)
    work_out_of_place(twin)
    steps = steps_of(twin, x[:_NUM_WATCHED])
    own = {name: parameter.detach() for name, parameter in twin.named_parameters()}
    partition.check("the direction", direction)
    partition.check("the parameters", {name: own[name] for name in partition.shapes if name in own})
    check_repeatable(twin, loss, x, target)
    walk = _Walk(steps, own, {name: u.detach().to(own[name]) for name, u in direction.items()}, partition)
    for share in shares_of(twin, loss, x, target, samples_at_once=samples_at_once):
        walk.add(loss, share)
    return walk.summary()


def _has_steps(module: nn.Module, few: Tensor | None) -> bool:
    try:
        steps_of(module if few is None else twin_of(module), few)
    except TypeError:
        return False
    return True


class _Series(NamedTuple):
    """The Taylor coefficients of one value, along each subset that changes it."""

    entered: tuple[int, ...]
    """Those subsets."""
    terms: Tensor
    """Of first and second order, (2, A, N, *F)."""


class _Walk:
    """Sums over samples of what the steps of a module add to the three orders."""

    def __init__(
        self,
        steps: Sequence[Step],
        own: Mapping[str, Tensor],
        direction: Mapping[str, Tensor],
        partition: ParameterPartition,
    ) -> None:
        self.steps, self.own, self.partition = steps, own, partition
        size = partition.num_subsets
        self.gradient = torch.zeros(size, dtype=torch.float64)
        self.hessian = torch.zeros(size, size, dtype=torch.float64)
        self.third = torch.zeros(size, dtype=torch.float64)
        self.changes = [self._changes_of(step, direction) for step in steps]
        self.last_use = {value: at for at, step in enumerate(steps) for value in step.inputs}

    def _changes_of(self, step: Step, direction: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """For each subset that changes a layer: what is added to its weight and its bias."""
        changes: dict[int, dict[str, Tensor]] = {}
        for own, _ in step.layer.named_parameters(recurse=False) if step.layer else ():
            name = f"{step.name}.{own}" if step.name else own
            if name not in self.partition.shapes:
                continue
            for subset, piece in self.partition.pieces_of(name):
                change = changes.setdefault(subset, {}).setdefault(own, torch.zeros_like(direction[name]))
                piece.of(change).copy_(piece.of(direction[name]))
        return changes

    def add(self, loss: Any, share: Share) -> None:
        """The samples of one share."""

        def of_output(y: Tensor) -> Tensor:
            value: Tensor = loss(y, share.target) * share.weight
            return value

        assert isinstance(share.x, Tensor)
        values, adjoints = self._adjoints(of_output, share.x)
        found: list[_Series | None] = [None]
        with torch.no_grad():
            for at, step in enumerate(self.steps):
                entering = [found[value] for value in step.inputs]
                found.append(self._through(at, entering, values, adjoints[at]))
                for value in step.inputs:
                    if self.last_use[value] == at:
                        found[value] = None
            if found[-1] is not None:
                self._through_loss(of_output, values[-1], found[-1])

    def _through(
        self, at: int, entering: Sequence[_Series | None], values: Sequence[Tensor], adjoint: Tensor
    ) -> _Series | None:
        """What leaves a step; None: what no subset changes."""
        layer = self.steps[at].layer
        if layer is None:
            return _added(entering)
        enters, series = values[self.steps[at].inputs[0]], entering[0]
        if isinstance(layer, WEIGHTED):
            return self._through_weights(at, enters, adjoint, series)
        if series is None:
            return None
        if (passed := linear_at(layer, enters)) is not None:
            return _Series(series.entered, _applied(passed, series.terms))
        return self._through_function(layer, enters, values[at + 1], adjoint, series)

    def _adjoints(self, of_output: Any, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What enters the module and what leaves each step; and dL/d of what leaves each step."""
        values = [x.detach()]
        with torch.enable_grad():
            for step in self.steps:
                inputs = [values[value] for value in step.inputs]
                if step.layer is None:
                    y = inputs[0] + inputs[1]
                elif isinstance(step.layer, WEIGHTED):
                    y = weigh(step.layer, inputs[0], *self._parameters_of(step.name))
                else:
                    y = step.layer(inputs[0])
                values.append(y if y.requires_grad else y.detach().requires_grad_())
            adjoints = torch.autograd.grad(of_output(values[-1]), values[1:], materialize_grads=True)
        return [value.detach() for value in values], [adjoint.detach() for adjoint in adjoints]

    def _parameters_of(self, layer: str) -> tuple[Tensor, Tensor | None]:
        path = f"{layer}." if layer else ""
        return self.own[f"{path}weight"], self.own.get(f"{path}bias")

    def _through_weights(self, at: int, enters: Tensor, adjoint: Tensor, series: _Series | None) -> _Series | None:
        """Taylor coefficients (2, A, N, *F) -> (2, A', N, *G), with the subsets that begin here."""
        name, layer = self.steps[at].name, self.steps[at].layer
        assert isinstance(layer, WEIGHTED)
        weight, _ = self._parameters_of(name)
        entered = series.entered if series else ()
        passed: Tensor | None = None
        if series is not None:
            passed = _applied(lambda h: weigh(layer, h, weight, None), series.terms)
        begun: dict[int, Tensor] = {}
        for subset, change in self.changes[at].items():
            first = torch.zeros_like(adjoint)
            if "weight" in change:
                first = self._change_weight(layer, subset, change["weight"], enters, adjoint, series, passed)
            if "bias" in change:
                bias = change["bias"]
                first = first + (bias if isinstance(layer, nn.Linear) else bias.reshape(-1, *[1] * (adjoint.dim() - 2)))
            self.gradient[subset] += float((adjoint * first).sum())
            if subset in entered:
                assert passed is not None
                passed[0, entered.index(subset)] += first
            else:
                begun[subset] = first
        if not begun:
            return None if passed is None else _Series(entered, passed)
        firsts = torch.stack(list(begun.values()))
        new = torch.stack([firsts, torch.zeros_like(firsts)])
        return _Series((*entered, *begun), new if passed is None else torch.cat([passed, new], dim=1))

    def _change_weight(
        self,
        layer: nn.Module,
        subset: int,
        change: Tensor,
        enters: Tensor,
        adjoint: Tensor,
        series: _Series | None,
        passed: Tensor | None,
    ) -> Tensor:
        """u h; and what u does to the series of the subsets that are on their way already."""
        if series is None or passed is None:
            return weigh(layer, enters, change, None)
        with torch.enable_grad():
            at = enters.detach().requires_grad_()
            first = weigh(layer, at, change, None)
        (pulled,) = torch.autograd.grad(first, at, adjoint)
        before = list(series.entered)
        met = _exact(series.terms[0].flatten(1) @ pulled.flatten())
        self.hessian[before, subset] += met
        self.hessian[subset, before] += met
        if subset in before:
            place = before.index(subset)
            passed[1, place] += weigh(layer, series.terms[0, place], change, None)
            self.third[subset] += 6 * float((pulled * series.terms[1, place]).sum())
        return first.detach()

    def _through_function(
        self, layer: nn.Module, enters: Tensor, leaves: Tensor, adjoint: Tensor, series: _Series
    ) -> _Series:
        """Coefficients of f(z): f' z1, and f' z2 + f'' z1^2 / 2."""
        one, two, three = derivatives_at(layer, enters, leaves)
        passed = one * series.terms
        if two is None or three is None:
            return _Series(series.entered, passed)
        z1, z2 = series.terms[0], series.terms[1]
        square = z1 * z1
        passed[1].addcmul_(square, two, value=0.5)
        at = torch.tensor(series.entered)
        weighed = (z1 * (adjoint * two)).flatten(1)
        self.hessian[at[:, None], at] += _exact(weighed @ z1.flatten(1).T)
        cubes = square.mul_(adjoint * three).flatten(1)
        self.third[at] += _exact(6 * _dot(weighed, z2.flatten(1)) + _dot(cubes, z1.flatten(1)))
        return _Series(series.entered, passed)

    def _through_loss(self, of_output: Any, y: Tensor, series: _Series) -> None:
        """What the loss adds, as a function of the output."""

        def bent(y1: Tensor) -> Tensor:
            slope: Any = lambda at: (grad(of_output)(at) * y1).sum()  # noqa: E731
            found: Tensor = grad(slope)(y)
            return found

        def third_along(y1: Tensor, y2: Tensor) -> Tensor:
            along: Any = lambda e: of_output(y + e * y1 + e * e * y2)  # noqa: E731
            found: Tensor = grad(grad(grad(along)))(y.new_zeros(()))
            return found

        at, (y1, y2) = torch.tensor(series.entered), series.terms
        self.hessian[at[:, None], at] += _exact(vmap(bent)(y1).flatten(1) @ y1.flatten(1).T)
        self.third[at] += _exact(vmap(third_along)(y1, y2))

    def summary(self) -> Summary:
        """Of all samples added."""
        return Summary(
            names=self.partition.names,
            gradient=self.gradient,
            hessian=(self.hessian + self.hessian.T) / 2,
            third=self.third,
        )


def _added(entering: Sequence[_Series | None]) -> _Series | None:
    """The sum of series, each of the subsets that it has."""
    some = [series for series in entering if series is not None]
    if len(some) < 2:
        return some[0] if some else None
    if some[0].entered == some[1].entered:
        return _Series(some[0].entered, some[0].terms + some[1].terms)
    entered = tuple(dict.fromkeys(subset for series in some for subset in series.entered))
    terms = some[0].terms.new_zeros(2, len(entered), *some[0].terms.shape[2:])
    for series in some:
        terms[:, [entered.index(subset) for subset in series.entered]] += series.terms
    return _Series(entered, terms)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Row by row, (A, M) -> (A,)."""
    found: Tensor = torch.linalg.vecdot(one, other)
    return found


def _applied(layer: Callable[[Tensor], Tensor], series: Tensor) -> Tensor:
    """A linear layer to all coefficients and subsets at once, (2, A, N, *F) -> (2, A, N, *G)."""
    found = layer(series.flatten(0, 2))
    return found.reshape(*series.shape[:3], *found.shape[1:])


def _exact(found: Tensor) -> Tensor:
    return found.detach().cpu().to(torch.float64)
