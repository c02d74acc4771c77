"""Which small network reads the labels off a stage's output?

A head is an `nn.Module` that maps h to logits. The last layer of each starts at zero, weights and bias, so that a new
head holds every class for equally likely and sends exactly zero gradient.

Letters: N samples, T tokens, C channels, F features, K classes, P the side of a pooled image.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni.sources.context import check_labels
from dni.sources.unit_changes import AxisChanges, reads, within
from dni.structure.origin import Origin

__all__ = ["ConvolutionalHead", "Head", "LabelLoss", "LinearHead", "MLPHead", "gradient_at"]

Name: TypeAlias = Literal["linear", "mlp", "convolutional"]

Head: TypeAlias = Name | nn.Module | Callable[[Tensor, int], nn.Module]
"""A name, a module of the user's own (copied for each member), or a function (h, num_classes) -> module, such as the
three below. The module maps (N, F) or (N, C, H, W) to (N, K), and (N, T, C) to (N, T, K) or (N, K)."""


@dataclass(frozen=True)
class LinearHead:
    """A linear map of features, of each token, or of an image pooled to P x P."""

    pool: int = 2
    """P; unused for other h."""

    def __post_init__(self) -> None:
        _check_at_least_one(pool=self.pool)

    def __call__(self, h: Tensor, num_classes: int) -> nn.Module:
        return _on_rows(_last(_width(h, self.pool), num_classes), h, self.pool)


@dataclass(frozen=True)
class MLPHead:
    """Hidden layers of Linear, BatchNorm, ReLU, then a linear one: on features, each token, or pooled images.

    Source: Belilovsky et al. 2020 (arXiv 1901.08164), MLP-aux, from its code. Differs: biases before BatchNorm, which
    subtracts them again, are left out, as in `ConvolutionalHead`; the last layer starts at zero.
    """

    num_hidden: int = 3
    """Hidden layers."""
    width: int | None = None
    """Of each hidden layer; None: as wide as what enters the first, F or C P²."""
    pool: int = 2
    """P; unused for other h."""
    batch_norm: bool = True
    """Whether hidden layers are normalised over the microbatch."""

    def __post_init__(self) -> None:
        _check_at_least_one(num_hidden=self.num_hidden, pool=self.pool)
        if self.width is not None:
            _check_at_least_one(width=self.width)

    def __call__(self, h: Tensor, num_classes: int) -> nn.Module:
        return _on_rows(self.layers(_width(h, self.pool), num_classes), h, self.pool)

    def layers(self, width_in: int, num_classes: int) -> nn.Module:
        """The layers alone, on rows of `width_in`."""
        width = self.width or width_in
        layers: list[nn.Module] = []
        for before in (width_in, *(width,) * (self.num_hidden - 1)):
            layers.append(nn.Linear(before, width, bias=not self.batch_norm))
            layers.extend([nn.BatchNorm1d(width)] if self.batch_norm else [])
            layers.append(nn.ReLU())
        return nn.Sequential(*layers, _last(width, num_classes))


@dataclass(frozen=True)
class ConvolutionalHead:
    """An image is pooled to a fraction of its side, convolved with 1 x 1 kernels, pooled to 2 x 2, and given to an MLP.

    Source: Belilovsky et al. 2020 (arXiv 1901.08164), MLP-SR-aux, from its code.
    """

    num_convolutions: int = 3
    """Layers of 1 x 1 convolution, BatchNorm, ReLU; each keeps the channels."""
    reduce: int = 4
    """By what the side of the image is divided first."""
    mlp: MLPHead = field(default_factory=MLPHead)
    """What follows; its `pool` is P."""

    def __post_init__(self) -> None:
        _check_at_least_one(num_convolutions=self.num_convolutions, reduce=self.reduce)

    def __call__(self, h: Tensor, num_classes: int) -> nn.Module:
        if h.dim() != 4:
            raise ValueError(
                f"a convolutional head serves an h of (N, C, H, W), got shape {tuple(h.shape)}. "
                "Use LinearHead or MLPHead for features (N, F) and tokens (N, T, C)."
            )
        channels = h.shape[1]
        side = (math.ceil(h.shape[2] / self.reduce), math.ceil(h.shape[3] / self.reduce))
        layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(side)]
        for _ in range(self.num_convolutions):
            layers.append(nn.Conv2d(channels, channels, 1, bias=not self.mlp.batch_norm))
            layers.extend([nn.BatchNorm2d(channels)] if self.mlp.batch_norm else [])
            layers.append(nn.ReLU())
        return nn.Sequential(*layers, self.mlp(h, num_classes))


class LabelLoss(nn.Module):
    """A head with its cross entropy on the labels: the loss, and the gradient of the loss at h.

    With one label per sample and logits for every token, the logits are averaged over tokens first. With one label per
    token, the loss of a sample is the mean over its tokens.

    Args:
        head: what the user chose.
        h: the member of h it is for, (N, *F); only its shape, dtype and device are meant to be read.
        num_classes: K; labels lie in [0, K).

    Raises:
        ValueError: an unknown name, or a kind that cannot serve h.
        TypeError: `head` is neither a name, a module nor a function that returns a module.
    """

    def __init__(self, head: Head, h: Tensor, *, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        self.num_classes = num_classes
        self.head = _make_head(head, h, num_classes)

    def axis_changes(self, origin: Origin, h: Tensor) -> AxisChanges:
        """The changes of the head: of what reads h; hidden layers keep their width."""
        return within("head", reads(self.head, origin, h, remedy="use 'linear', 'mlp' or 'convolutional'"))

    def loss(self, h: Tensor, target: Tensor) -> Tensor:
        """The cross entropy summed over samples, a scalar.

        Raises:
            ValueError: the labels are no classes in [0, K) or do not match h, or the head gives no K logits each.
        """
        check_labels(h, target, num_classes=self.num_classes)
        logits = self.head(h)
        if logits.dim() == 3 and target.dim() == 1:
            logits = logits.mean(dim=1)
        if logits.shape != (*target.shape, self.num_classes):
            raise ValueError(
                f"a head must give {self.num_classes} logits for each label of shape {tuple(target.shape)}, got "
                f"{tuple(logits.shape)} for an h of shape {tuple(h.shape)}. Make its last layer end in num_classes."
            )
        per_sample = target.numel() // max(1, h.shape[0])
        total = F.cross_entropy(logits.flatten(0, -2), target.long().flatten(), reduction="sum")
        return total / per_sample if per_sample > 1 else total

    def forward(self, h: Tensor, target: Tensor) -> Tensor:
        """The gradient of the loss at h, shaped as h; with a graph, unless gradients are turned off."""
        return gradient_at(h, lambda leaf: self.loss(leaf, target))


def gradient_at(h: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """d loss / dh for a scalar function of h; with a graph to what else the function holds, unless that is off."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        leaf = h.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=graph)
    return gradient


def _make_head(head: Head, h: Tensor, num_classes: int) -> nn.Module:
    if isinstance(head, nn.Module):
        return copy.deepcopy(head)
    function = _named(head) if isinstance(head, str) else head
    module = function(h, num_classes) if callable(function) else function
    if not isinstance(module, nn.Module):
        raise TypeError(
            "a head must be a name, a module, or a function (h, num_classes) that returns a module, "
            f"got {head!r}, which gave {type(module).__name__}. Return an nn.Module."
        )
    return module


def _named(name: Name) -> Callable[[Tensor, int], nn.Module]:
    match name:
        case "linear":
            return LinearHead()
        case "mlp":
            return MLPHead()
        case "convolutional":
            return ConvolutionalHead()
    raise ValueError(
        f"a head's name must be 'linear', 'mlp' or 'convolutional', got {name!r}. "
        "For another network pass a function (h, num_classes) -> nn.Module."
    )


class _OnTokens(nn.Module):
    """The same map on each token of (N, T, C)."""

    def __init__(self, map: nn.Module) -> None:
        super().__init__()
        self.map = map

    def axis_changes(self, origin: Origin, h: Tensor) -> AxisChanges:
        return within("map", reads(self.map, origin, h, remedy="make it of linear layers"))

    def forward(self, h: Tensor) -> Tensor:
        # Tokens become rows: BatchNorm takes its statistics over all of them and keeps the channels apart.
        return self.map(h.flatten(0, 1)).unflatten(0, h.shape[:2])  # type: ignore[no-any-return]


def _on_rows(map: nn.Module, h: Tensor, pool: int) -> nn.Module:
    match h.dim():
        case 2:
            return map
        case 3:
            return _OnTokens(map)
    return nn.Sequential(nn.AdaptiveAvgPool2d(pool), nn.Flatten(), map)


def _width(h: Tensor, pool: int) -> int:
    """Length of the rows that a head works on."""
    if h.dim() not in (2, 3, 4):
        raise ValueError(
            f"a head serves an h of (N, F), (N, T, C) or (N, C, H, W), got shape {tuple(h.shape)}. "
            "Pass a module of your own."
        )
    return h.shape[1] * pool**2 if h.dim() == 4 else h.shape[-1]


def _last(width: int, num_classes: int) -> nn.Linear:
    layer = nn.Linear(width, num_classes)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _check_at_least_one(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"a head's {name} must be at least 1, got {size}.")
