"""How does a convolution get a larger kernel and stay the same function?

A ring of zeros around the kernel, and as much more padding: every output sees the same products, and more that are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from dni.structure.followers import AxisChange, map_tensor
from dni.structure.origin import Origin

__all__ = ["Padding", "ResizedKernel", "narrow_kernel", "widen_kernel"]

Padding: TypeAlias = tuple[int, ...] | str
"""As `nn.Conv2d` keeps it: a number per dimension, or "same" or "valid"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizedKernel:
    """A convolution's weight after a change of its kernel, and what changes with it."""

    weight: Tensor
    changes: tuple[AxisChange, ...]
    """One for each axis of the kernel, for a `TensorChange`."""
    padding: Padding
    """To be set in the layer, as `fit_` does."""
    kernel_size: tuple[int, ...]
    """To be set in the layer, as `fit_` does."""


def widen_kernel(weight: Tensor, *, padding: Padding, dilation: Sequence[int] | None = None) -> ResizedKernel:
    """Grow a kernel from k to k + 2 by zeros in each dimension; the output is unchanged.

    Args:
        weight: (O, I / groups, *kernel), of one or more dimensions.
        padding: of the layer, of whatever mode: what is padded is multiplied by 0.
        dilation: of the layer; 1 by default. The padding grows by it.
    """
    sizes = _sizes(weight)
    changes = [
        AxisChange(axis=axis, origin=Origin.insert((0, size + 1), num_old=size), side="consumer")
        for axis, size in enumerate(sizes, start=2)
    ]
    return _resized(weight, changes, padding=_shifted(padding, dilation, sizes, sign=1))


def narrow_kernel(weight: Tensor, *, padding: Padding, dilation: Sequence[int] | None = None) -> ResizedKernel:
    """Cut the outermost ring of a kernel, from k to k - 2. Undoes `widen_kernel`; the output loses what the ring added.

    Raises:
        ValueError: the kernel is too small, or the padding would be negative.
    """
    sizes = _sizes(weight)
    if min(sizes) < 3:
        raise ValueError(f"a kernel must be at least 3 wide to lose a ring, got {sizes}. Leave this layer as it is.")
    changes = [
        AxisChange(axis=axis, origin=Origin.keep(range(1, size - 1), num_old=size), side="consumer")
        for axis, size in enumerate(sizes, start=2)
    ]
    return _resized(weight, changes, padding=_shifted(padding, dilation, sizes, sign=-1))


def _resized(weight: Tensor, changes: Sequence[AxisChange], *, padding: Padding) -> ResizedKernel:
    mapped = map_tensor(weight, changes, "value")
    return ResizedKernel(weight=mapped, changes=tuple(changes), padding=padding, kernel_size=_sizes(mapped))


def _sizes(weight: Tensor) -> tuple[int, ...]:
    if weight.dim() < 3:
        raise ValueError(f"the weight of a convolution is (O, I / groups, *kernel), got {tuple(weight.shape)}.")
    return tuple(weight.shape[2:])


def _shifted(padding: Padding, dilation: Sequence[int] | None, sizes: tuple[int, ...], *, sign: int) -> Padding:
    """The padding that goes with one ring more or less."""
    if padding == "same":
        return padding
    before = (0,) * len(sizes) if isinstance(padding, str) else padding
    rate = (1,) * len(sizes) if dilation is None else tuple(dilation)
    if not len(before) == len(rate) == len(sizes):
        raise ValueError(f"a kernel {sizes} needs as many paddings and dilations, got {padding} and {dilation}.")
    after = tuple(own + sign * step for own, step in zip(before, rate, strict=True))
    if min(after) < 0:
        raise ValueError(
            f"a kernel {sizes} with padding {padding} and dilation {rate} cannot lose a ring: its padding would be "
            f"{after}. Only as much can be cut as was padded."
        )
    return after
