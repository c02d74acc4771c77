"""Which network predicts the gradient?

A synthesizer is an `nn.Module` that maps h, and the context where there is one, to a gradient of h's shape.
The last layer of each starts at zero, weights and bias, so that a new synthesizer sends exactly zero
gradient.
Source: Jaderberg et al. 2017, section 3.1.

Letters: N samples, T tokens, C channels, F features, K numbers of context per label.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from dni.sources.unit_changes import AxisChanges, predicts, within
from dni.structure.layout import flattened
from dni.structure.origin import Origin

__all__ = ["MLP", "Convolutional", "Linear", "LowRank", "Synthesizer", "make_synthesizer"]

Name: TypeAlias = Literal["linear", "low-rank", "mlp", "convolutional"]

Synthesizer: TypeAlias = Name | nn.Module | Callable[[Tensor, int], nn.Module]
"""A name, a module of the user's own (copied for each member), or a function (h, num_context) -> module, such
as the four below. The module is called as module(h), or as module(h, context) by a conditional source."""


@dataclass(frozen=True)
class Linear:
    """δ = h A + y B + c: on features (N, F), each token (N, T, C), or as a convolution over images (N, C, H,
    W).

    A flattened linear map of an image has (C H W)^2 weights; the convolution keeps to the paper's 5 x 5 and
    sees where in the image it is only through its padding. `LowRank` is the flattened map that can be
    afforded.
    """

    kernel_size: int = 5
    """Width of the convolution over images, odd; unused for other h."""

    def __post_init__(self) -> None:
        _check_kernel(self.kernel_size)

    def __call__(self, h: Tensor, num_context: int) -> nn.Module:
        if h.dim() == 4:
            return Convolutional(channels=(), kernel_size=self.kernel_size)(h, num_context)
        return _on_vectors(_zeroed(nn.Linear(_width(h) + num_context, _width(h))), h)


@dataclass(frozen=True)
class LowRank:
    """δ = (h; y) U V + c with U (F + K, rank), V (rank, F): on features, each token, or the flattened image.

    Only V starts at zero: with both at zero neither would ever receive a gradient.
    """

    rank: int = 128
    """Columns of U."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"a low-rank synthesizer's rank must be at least 1, got {self.rank}.")

    def __call__(self, h: Tensor, num_context: int) -> nn.Module:
        down = nn.Linear(_width(h) + num_context, self.rank, bias=False)
        return _on_vectors(nn.Sequential(down, _zeroed(nn.Linear(self.rank, _width(h)))), h)


@dataclass(frozen=True)
class MLP:
    """Hidden layers of Linear, BatchNorm, ReLU; a linear last: on features, tokens or flattened images."""

    hidden: tuple[int, ...] = (1024, 1024)
    """Width of each hidden layer; the paper's for MNIST."""
    batch_norm: bool = True
    """Whether hidden layers are normalised over the microbatch."""

    def __post_init__(self) -> None:
        _check_sizes("hidden", self.hidden)

    def __call__(self, h: Tensor, num_context: int) -> nn.Module:
        widths = (_width(h) + num_context, *self.hidden)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            # A bias before BatchNorm is subtracted again with the mean.
            layers.append(nn.Linear(before, after, bias=not self.batch_norm))
            layers.extend([nn.BatchNorm1d(after)] if self.batch_norm else [])
            layers.append(nn.ReLU())
        return _on_vectors(nn.Sequential(*layers, _zeroed(nn.Linear(widths[-1], _width(h)))), h)


@dataclass(frozen=True)
class Convolutional:
    """Hidden layers of convolution, BatchNorm, ReLU; the last a convolution, for images; H and W are kept."""

    channels: tuple[int, ...] = (64, 64)
    """Channels of each hidden layer; the paper's for MNIST."""
    kernel_size: int = 5
    """Width of every kernel, odd."""
    batch_norm: bool = True
    """Whether hidden layers are normalised over the microbatch."""

    def __post_init__(self) -> None:
        _check_sizes("channels", self.channels)
        _check_kernel(self.kernel_size)

    def __call__(self, h: Tensor, num_context: int) -> nn.Module:
        if h.dim() != 4:
            raise ValueError(
                f"a convolutional synthesizer serves an h of (N, C, H, W), got shape {tuple(h.shape)}. "
                "Use Linear, LowRank or MLP for features (N, F) and tokens (N, T, C)."
            )
        channels = (h.shape[1] + num_context, *self.channels)
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers.append(self._convolution(before, after, bias=not self.batch_norm))
            layers.extend([nn.BatchNorm2d(after)] if self.batch_norm else [])
            layers.append(nn.ReLU())
        return _Joined(nn.Sequential(*layers, _zeroed(self._convolution(channels[-1], h.shape[1], bias=True))))

    def _convolution(self, before: int, after: int, *, bias: bool) -> nn.Conv2d:
        return nn.Conv2d(before, after, self.kernel_size, padding=self.kernel_size // 2, bias=bias)


def make_synthesizer(synthesizer: Synthesizer, h: Tensor, *, num_context: int) -> nn.Module:
    """The network that predicts the gradient of one member of h.

    Args:
        synthesizer: what the user chose.
        h: the member, (N, *F); only its shape, dtype and device are meant to be read.
        num_context: K; 0 without labels.

    Raises:
        ValueError: an unknown name, or a kind that cannot serve h.
        TypeError: neither a name, a module nor a function that returns a module.
    """
    if isinstance(synthesizer, nn.Module):
        return copy.deepcopy(synthesizer)
    function = _named(synthesizer) if isinstance(synthesizer, str) else synthesizer
    module = function(h, num_context) if callable(function) else function
    if not isinstance(module, nn.Module):
        raise TypeError(
            "a synthesizer must be a name, a module, or a function (h, num_context) that returns a module, "
            f"got {synthesizer!r}, which gave {type(module).__name__}. Return an nn.Module."
        )
    return module


def _named(name: Name) -> Callable[[Tensor, int], nn.Module]:
    match name:
        case "linear":
            return Linear()
        case "low-rank":
            return LowRank()
        case "mlp":
            return MLP()
        case "convolutional":
            return Convolutional()
    raise ValueError(
        f"a synthesizer's name must be 'linear', 'low-rank', 'mlp' or 'convolutional', got {name!r}. "
        "For another network pass a function (h, num_context) -> nn.Module."
    )


class _Joined(nn.Module):
    """A map of h beside its context, (N, F + K) or (N, C + K, H, W), to h's shape."""

    def __init__(self, map: nn.Module) -> None:
        super().__init__()
        self.map = map

    def axis_changes(self, origin: Origin, h: Tensor) -> AxisChanges:
        return within("map", predicts(self.map, origin))

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        return self.map(_join(h, context))  # type: ignore[no-any-return]


class _OnTokens(nn.Module):
    """The same map on each token of (N, T, C + K), with no mixing across tokens."""

    def __init__(self, map: nn.Module) -> None:
        super().__init__()
        self.map = map

    def axis_changes(self, origin: Origin, h: Tensor) -> AxisChanges:
        return within("map", predicts(self.map, origin))

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        # Tokens become rows: BatchNorm takes its statistics over all of them and keeps the channels apart.
        return self.map(_join(h, context).flatten(0, 1)).view(h.shape)  # type: ignore[no-any-return]


class _OnFlattened(nn.Module):
    """A map of images flattened to (N, C H W + K)."""

    def __init__(self, map: nn.Module) -> None:
        super().__init__()
        self.map = map

    def axis_changes(self, origin: Origin, h: Tensor) -> AxisChanges:
        return within("map", predicts(self.map, flattened(origin, h.shape[1:].numel(), units_last=False)))

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        # The feature maps of a label are constant: one point says it all.
        label = None if context is None else context.flatten(2)[:, :, 0]
        return self.map(_join(h.flatten(1), label)).view(h.shape)  # type: ignore[no-any-return]


def _on_vectors(map: nn.Module, h: Tensor) -> nn.Module:
    match h.dim():
        case 2:
            return _Joined(map)
        case 3:
            return _OnTokens(map)
    return _OnFlattened(map)


def _join(h: Tensor, context: Tensor | None) -> Tensor:
    """Put `context` beside `h` on the feature axis: the last of (N, F) and (N, T, C), else axis 1."""
    return h if context is None else torch.cat([h, context], dim=2 if h.dim() == 3 else 1)


def _width(h: Tensor) -> int:
    """Length of the vectors that a map of `h` works on."""
    if h.dim() < 2:
        raise ValueError(
            f"a synthesizer serves an h of (N, F), (N, T, C) or (N, C, H, W), got shape {tuple(h.shape)}. "
            "Give the stage's output a feature axis, or pass a module of your own."
        )
    return h.shape[-1] if h.dim() < 4 else math.prod(h.shape[1:])


def _zeroed(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _check_kernel(kernel_size: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(
            f"a synthesizer's kernel_size must be odd, got {kernel_size}. An odd kernel keeps h's height and width."
        )


def _check_sizes(name: str, sizes: tuple[int, ...]) -> None:
    if any(size < 1 for size in sizes):
        raise ValueError(f"a synthesizer's {name} must all be at least 1, got {sizes}.")
