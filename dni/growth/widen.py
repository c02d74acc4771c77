"""How does a trained network become wider or deeper and stay the same function?

Wider: units are copied, and what reads them is divided among the copies. Deeper: a layer that computes the identity.
Source: Chen, Goodfellow, Shlens 2015 (arXiv 1511.05641), Net2WiderNet and Net2DeeperNet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dni.structure.followers import AxisChange
from dni.structure.hidden import Hidden, Resized
from dni.structure.origin import Origin, along

__all__ = ["identity_convolution", "identity_linear", "random_units", "widen"]


def random_units(num_units: int, count: int, *, generator: torch.Generator) -> list[int]:
    """Units to copy, drawn with replacement, as Net2Net does."""
    return torch.randint(num_units, (count,), generator=generator).tolist()


def widen(
    hidden: Hidden, units: Sequence[int], *, noise: float = 0.0, generator: torch.Generator | None = None
) -> Resized:
    """Copy units; the network computes the same function.

    W'[j] = W[s(j)], V'[:, j] = V[:, s(j)] / n(j), n the number of copies.    Source: Chen et al. 2015. Differs: noise
    is added to the outgoing weights and adds up to 0 over the copies of a unit, so it breaks their symmetry (their
    incoming gradients differ at once) and keeps the function.

    Args:
        hidden: the layer.
        units: those to copy, one copy each time one is named; they follow the old ones.
        noise: standard deviation, in that of the outgoing weights. Without it (and without dropout) copies stay alike
            for ever under any element-wise optimiser.
        generator: draws the noise; needed if there is any.

    Raises:
        ValueError: a unit does not exist, noise has no generator, or copies are uneven under a LayerNorm, whose
            statistics would change.
    """
    origin = Origin.duplicate(units, num_old=hidden.num_units)
    copies = Counter(origin.sources)
    if hidden.mixes_units and len(set(copies.values())) > 1:
        raise ValueError(
            "LayerNorm takes its statistics over all units, so the function is kept only if each is copied equally "
            f"often, got between {min(copies.values())} and {max(copies.values())} copies. Copy all {hidden.num_units} "
            "units, or widen a layer without LayerNorm."
        )
    resized = hidden.follow(origin)
    if noise:
        if generator is None:
            raise ValueError(f"noise {noise} needs a generator, keyed by seed and event, so that replicas agree.")
        for name, own in hidden.sides("consumer").items():
            size = noise * float(own.tensor.std(correction=0))
            resized.tensors[name] += _cancelling(resized.tensors[name], resized.changes[name], size, generator)
    return resized


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


def _cancelling(weight: Tensor, change: AxisChange, size: float, generator: torch.Generator) -> Tensor:
    """Noise that adds up to 0 over the copies of each entry along the axis; 0 for what has no other copy."""
    origin, axis = change.origin, change.axis
    noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight) * size
    sources = torch.tensor(origin.sources, device=weight.device)
    counts = torch.bincount(sources, minlength=origin.num_old).clamp(min=1).to(weight)
    shape = (*weight.shape[:axis], origin.num_old, *weight.shape[axis + 1 :])
    sums = torch.zeros(shape, dtype=weight.dtype, device=weight.device).index_add(axis, sources, noise)
    return noise - (sums / along(counts, axis, num_axes=weight.dim())).index_select(axis, sources)
