"""What does a summary cost at least, for a chain of layers?

One forward pass, one backward pass without the gradients of weights (the adjoint lambda_l = dL/dz_l, shared by all
subsets), and for each subset a forward pass of two Taylor coefficients, from the first layer it changes on:

    h(e) = h + e h1_s + e^2 h2_s + ...

What a layer adds to an order of the loss beyond passing on the coefficient of that order is weighed with lambda_l and
summed, so the coefficient of the highest order is never formed, and neither are mixed ones:

    a = f(z):         H_st += sum lambda f'' z1_s z1_t           D_sss += sum lambda (6 f'' z1_s z2_s + f''' z1_s^3)
    z = (W + e u) h:  H_st += <lambda, u_s h1_t + u_t h1_s>      D_sss += 6 <lambda, u_s h2_s>

and the loss itself, a function of the output, adds its own. Tensors of the subsets on their way are (A, N, *F).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from dni.curvature.loss_parts import Share, check_repeatable, shares_of, twin_of
from dni.curvature.partition import ParameterPartition
from dni.curvature.summaries import Summary
from dni.curvature.taylor_layers import WEIGHTED, derivatives_at, is_known, linear_at, weigh

__all__ = ["is_chain", "summarise_chain"]


def is_chain(module: nn.Module) -> bool:
    """Whether `summarise_chain` takes a module: an `nn.Sequential`, nested or not, of layers of the kinds it knows."""
    layers = [layer for _, layer in _layers(module)]
    return all(map(is_known, layers)) and len(set(map(id, layers))) == len(layers)


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
    """As `summarise` of `loss_parts`, for a chain of layers at the parameters it has.

    Kinds of layers: Linear, Conv, average pooling, MaxPool2d, Flatten, Identity, dropout in evaluation, and Tanh,
    Sigmoid, SiLU, GELU, Softplus, ELU, Mish, Softsign, ReLU, LeakyReLU. Any loss. Of a network cut into S subsets
    evenly along its depth it takes about (S + 2) / 3 times a forward and backward pass.

    Args:
        module: an `nn.Sequential`; of stages in one process, `nn.Sequential(*stages)`. Not changed.
        loss: of (output, target), a mean or a sum over samples.
        x: (N, *F).
        target: (N, ...).
        direction: u, of the partition's names and shapes.
        partition: of parameters of the module, all or some.
        samples_at_once: memory grows with it; the time hardly depends on it.

    Raises:
        TypeError: a layer is of another kind, has hooks, or is there twice.
        ValueError: as `summarise` and `loss_parts`.
    """
    twin = twin_of(module)
    layers = list(_layers(twin))
    seen: set[int] = set()
    for name, layer in layers:
        if not is_known(layer) or id(layer) in seen:
            raise TypeError(
                f"layer {name!r}, a {type(layer).__name__}, must be of a kind that Taylor series are known for, "
                "without hooks, in evaluation if it is dropout, and in the chain once. Use summarise(loss_parts(...))."
            )
        seen.add(id(layer))
        if hasattr(layer, "inplace"):
            vars(layer)["inplace"] = False  # what enters it is used again
    own = {name: parameter.detach() for name, parameter in twin.named_parameters()}
    partition.check("the direction", direction)
    partition.check("the parameters", {name: own[name] for name in partition.shapes if name in own})
    check_repeatable(twin, loss, x, target)
    walk = _Walk(layers, own, {name: u.detach().to(own[name]) for name, u in direction.items()}, partition)
    for share in shares_of(twin, loss, x, target, samples_at_once=samples_at_once):
        walk.add(loss, share)
    return walk.summary()


def _layers(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    if type(module) is not nn.Sequential or module._forward_hooks or module._forward_pre_hooks:
        yield prefix, module
        return
    for name, child in module._modules.items():  # named_children leaves out what is there twice
        assert child is not None
        yield from _layers(child, f"{prefix}.{name}" if prefix else name)


class _Walk:
    """Sums over samples of what the layers of a chain add to the three orders."""

    def __init__(
        self,
        layers: list[tuple[str, nn.Module]],
        own: Mapping[str, Tensor],
        direction: Mapping[str, Tensor],
        partition: ParameterPartition,
    ) -> None:
        self.layers, self.own, self.partition = layers, own, partition
        size = partition.num_subsets
        self.gradient = torch.zeros(size, dtype=torch.float64)
        self.hessian = torch.zeros(size, size, dtype=torch.float64)
        self.third = torch.zeros(size, dtype=torch.float64)
        self.changes = [self._changes_of(name, layer, direction) for name, layer in layers]
        self.entered: list[int] = []
        """Subsets on their way."""

    def _changes_of(
        self, layer: str, module: nn.Module, direction: Mapping[str, Tensor]
    ) -> dict[int, dict[str, Tensor]]:
        """For each subset that changes a layer: what is added to its weight and its bias."""
        changes: dict[int, dict[str, Tensor]] = {}
        for own, _ in module.named_parameters(recurse=False):
            name = f"{layer}.{own}" if layer else own
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
        self.entered = []
        with torch.no_grad():
            series: Tensor | None = None
            for at, (_, layer) in enumerate(self.layers):
                enters, leaves, adjoint = values[at], values[at + 1], adjoints[at]
                if isinstance(layer, WEIGHTED):
                    series = self._through_weights(at, enters, adjoint, series)
                elif series is None:
                    continue
                elif (passed := linear_at(layer, enters)) is not None:
                    series = _applied(passed, series)
                else:
                    series = self._through_function(layer, enters, leaves, adjoint, series)
            if series is not None:
                self._through_loss(of_output, values[-1], series)

    def _adjoints(self, of_output: Any, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What enters each layer, and the output; and dL/d of what leaves each layer."""
        values = [x.detach()]
        with torch.enable_grad():
            for at, (name, layer) in enumerate(self.layers):
                if isinstance(layer, WEIGHTED):
                    y = weigh(layer, values[-1], *self._parameters_of(name))
                else:
                    y = layer(values[-1])
                values.append(y.requires_grad_() if at == 0 else y)
            adjoints = torch.autograd.grad(of_output(values[-1]), values[1:])
        return [value.detach() for value in values], [adjoint.detach() for adjoint in adjoints]

    def _parameters_of(self, layer: str) -> tuple[Tensor, Tensor | None]:
        path = f"{layer}." if layer else ""
        return self.own[f"{path}weight"], self.own.get(f"{path}bias")

    def _through_weights(self, at: int, enters: Tensor, adjoint: Tensor, series: Tensor | None) -> Tensor | None:
        """Taylor coefficients (2, A, N, *F) -> (2, A', N, *G), with the subsets that begin here."""
        name, layer = self.layers[at]
        weight, _ = self._parameters_of(name)
        passed: Tensor | None = None
        if series is not None:
            passed = _applied(lambda h: weigh(layer, h, weight, None), series)
        begun: list[Tensor] = []
        before = list(self.entered)
        for subset, change in self.changes[at].items():
            first = torch.zeros_like(adjoint)
            if "weight" in change:
                first = self._change_weight(layer, subset, change["weight"], enters, adjoint, series, passed)
            if "bias" in change:
                bias = change["bias"]
                first = first + (bias if isinstance(layer, nn.Linear) else bias.reshape(-1, *[1] * (adjoint.dim() - 2)))
            self.gradient[subset] += float((adjoint * first).sum())
            if subset in before:
                assert passed is not None
                passed[0, before.index(subset)] += first
            else:
                self.entered.append(subset)
                begun.append(first)
        if not begun:
            return passed
        new = torch.stack([torch.stack(begun), torch.zeros_like(adjoint).expand(len(begun), *adjoint.shape)])
        return new if passed is None else torch.cat([passed, new], dim=1)

    def _change_weight(
        self,
        layer: nn.Module,
        subset: int,
        change: Tensor,
        enters: Tensor,
        adjoint: Tensor,
        series: Tensor | None,
        passed: Tensor | None,
    ) -> Tensor:
        """u h; and what u does to the series of the subsets that are on their way already."""
        if series is None or passed is None:
            return weigh(layer, enters, change, None)
        with torch.enable_grad():
            at = enters.detach().requires_grad_()
            first = weigh(layer, at, change, None)
        (pulled,) = torch.autograd.grad(first, at, adjoint)
        before = self.entered[: series.shape[1]]
        met = _exact(series[0].flatten(1) @ pulled.flatten())
        self.hessian[before, subset] += met
        self.hessian[subset, before] += met
        if subset in before:
            place = before.index(subset)
            passed[1, place] += weigh(layer, series[0, place], change, None)
            self.third[subset] += 6 * float((pulled * series[1, place]).sum())
        return first.detach()

    def _through_function(
        self, layer: nn.Module, enters: Tensor, leaves: Tensor, adjoint: Tensor, series: Tensor
    ) -> Tensor:
        """Coefficients of f(z): f' z1, and f' z2 + f'' z1^2 / 2."""
        one, two, three = derivatives_at(layer, enters, leaves)
        passed = one * series
        if two is None or three is None:
            return passed
        z1, z2 = series[0], series[1]
        square = z1 * z1
        passed[1].addcmul_(square, two, value=0.5)
        at = torch.tensor(self.entered)
        weighed = (z1 * (adjoint * two)).flatten(1)
        self.hessian[at[:, None], at] += _exact(weighed @ z1.flatten(1).T)
        cubes = square.mul_(adjoint * three).flatten(1)
        self.third[at] += _exact(6 * _dot(weighed, z2.flatten(1)) + _dot(cubes, z1.flatten(1)))
        return passed

    def _through_loss(self, of_output: Any, y: Tensor, series: Tensor) -> None:
        """What the loss adds, as a function of the output."""

        def bent(y1: Tensor) -> Tensor:
            slope: Any = lambda at: (grad(of_output)(at) * y1).sum()  # noqa: E731
            found: Tensor = grad(slope)(y)
            return found

        def third_along(y1: Tensor, y2: Tensor) -> Tensor:
            along: Any = lambda e: of_output(y + e * y1 + e * e * y2)  # noqa: E731
            found: Tensor = grad(grad(grad(along)))(y.new_zeros(()))
            return found

        at = torch.tensor(self.entered)
        hessian = vmap(bent)(series[0]).flatten(1) @ series[0].flatten(1).T
        self.hessian[at[:, None], at] += _exact(hessian)
        self.third[at] += _exact(vmap(third_along)(series[0], series[1]))

    def summary(self) -> Summary:
        """Of all samples added."""
        return Summary(
            names=self.partition.names,
            gradient=self.gradient,
            hessian=(self.hessian + self.hessian.T) / 2,
            third=self.third,
        )


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
