"""How do the kinds of layers that Taylor series go through act on them?

Three kinds: those with parameters, linear in what enters and in the parameters; those that are linear, or are at this
input; and those that work on each number by itself, given by three derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["WEIGHTED", "Derivatives", "derivatives_at", "is_known", "linear_at", "weigh"]

Derivatives: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None]
"""f', f'' and f''' at each number, (N, *F); None: zero."""

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_LINEAR = (nn.Identity, nn.Flatten, *_POOLS, *_DROPOUTS)
_PIECEWISE = (nn.ReLU, nn.LeakyReLU)
_SMOOTH = (nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, nn.Softplus, nn.ELU, nn.Mish, nn.Softsign)


def is_known(layer: nn.Module) -> bool:
    """Whether a layer is of a kind that Taylor series can be taken through, and nothing is hooked to it."""
    hooked = bool(layer._forward_hooks or layer._forward_pre_hooks)
    if hooked or (type(layer) in _DROPOUTS and layer.training):
        return False
    if isinstance(layer, nn.Flatten) and layer.start_dim != 1:
        return False
    return type(layer) in (*WEIGHTED, *_LINEAR, *_PIECEWISE, *_SMOOTH, nn.MaxPool2d)


def weigh(layer: nn.Module, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A layer with these parameters instead of its own, (M, *F) -> (M, *G)."""
    if isinstance(layer, nn.Linear):
        return F.linear(h, weight, bias)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    found: Tensor = layer._conv_forward(h, weight, bias)
    return found


def linear_at(layer: nn.Module, h: Tensor) -> Callable[[Tensor], Tensor] | None:
    """What a linear layer does to changes (M, *F) of its input; None: the layer is not linear.

    Of max-pooling, what it does as long as the same entries are the largest.
    """
    if isinstance(layer, _LINEAR):
        return layer
    if not isinstance(layer, nn.MaxPool2d):
        return None
    y, index = F.max_pool2d(
        h, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode, return_indices=True
    )

    def pick(change: Tensor) -> Tensor:
        copies = len(change) // len(h)
        places = index.flatten(-2).repeat(copies, 1, 1)
        return change.flatten(-2).gather(-1, places).reshape(*change.shape[:-2], *y.shape[-2:])

    return pick


def derivatives_at(layer: nn.Module, z: Tensor, a: Tensor) -> Derivatives:
    """The first three derivatives of a layer that works on each number by itself.

    Args:
        layer: of such a kind.
        z: what enters it.
        a: what leaves it.
    """
    if isinstance(layer, nn.Tanh):
        first = 1 - a * a
        return first, -2 * a * first, first * (6 * a * a - 2)
    if isinstance(layer, nn.Sigmoid):
        first = a * (1 - a)
        return first, first * (1 - 2 * a), first * (1 - 6 * first)
    if isinstance(layer, nn.ELU):
        grown = torch.where(z > 0, 0.0, a + layer.alpha)  # alpha exp(z)
        return torch.where(z > 0, 1.0, grown), grown, grown
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        (one,) = torch.autograd.grad(layer(at).sum(), at, create_graph=not isinstance(layer, _PIECEWISE))
        if isinstance(layer, _PIECEWISE):
            return one, None, None
        (two,) = torch.autograd.grad(one.sum(), at, create_graph=True)
        (three,) = torch.autograd.grad(two.sum(), at)
    return one.detach(), two.detach(), three
