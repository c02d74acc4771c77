"""How does a trained network become wider or deeper and stay the same function?

Wider: units are copied, and what reads them is divided among the copies (`Origin.duplicate` and `change_units`).
Deeper: a layer that computes the identity.
Source: Chen, Goodfellow, Shlens 2015 (arXiv 1511.05641), Net2WiderNet and Net2DeeperNet.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["identity_convolution", "identity_linear", "random_units"]


def random_units(num_units: int, count: int, *, generator: torch.Generator) -> list[int]:
    """Units to copy, drawn with replacement, as Net2Net does."""
    return torch.randint(num_units, (count,), generator=generator).tolist()


def identity_linear(
    num_units: int, *, activation: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a Linear to put behind an activation, with the same one behind it again.

    Source: Chen et al. 2015.

    Args:
        num_units: of the layer before.
        activation: of that layer and of the new one, element by element.
        dtype: as `torch.eye`'s.

    Raises:
        ValueError: the activation is not idempotent, so that two in a row are not one.
    """
    _check_idempotent(activation)
    return torch.eye(num_units, dtype=dtype), torch.zeros(num_units, dtype=dtype)


def identity_convolution(
    num_channels: int,
    *,
    kernel_size: tuple[int, ...],
    activation: Callable[[Tensor], Tensor],
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Weight (C, C, *kernel_size) and bias of a convolution that is the identity, with padding kernel_size // 2.

    Source: Chen et al. 2015. Raises as `identity_linear`, and for kernels that have no middle.
    """
    _check_idempotent(activation)
    if not kernel_size or any(size % 2 == 0 for size in kernel_size):
        raise ValueError(f"a kernel needs a middle to be the identity, so its sizes must be odd, got {kernel_size}.")
    weight = torch.zeros(num_channels, num_channels, *kernel_size, dtype=dtype)
    middle = tuple(size // 2 for size in kernel_size)
    for channel in range(num_channels):
        weight[(channel, channel, *middle)] = 1
    return weight, torch.zeros(num_channels, dtype=dtype)


def _check_idempotent(activation: Callable[[Tensor], Tensor]) -> None:
    x = torch.linspace(-10, 10, 401, dtype=torch.float64)
    with torch.no_grad():
        once = activation(x)
        twice = activation(once)
    if not torch.equal(once, twice):
        worst = int((once - twice).abs().argmax())
        raise ValueError(
            f"an identity layer keeps the function only behind an idempotent activation, s(s(x)) = s(x), but here "
            f"s({x[worst]:.4g}) = {once[worst]:.4g} and s(s({x[worst]:.4g})) = {twice[worst]:.4g}. Use ReLU, or put "
            "the layer where there is no activation."
        )
