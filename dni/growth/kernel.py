"""How does a convolution get a larger kernel?

A ring of zeros around the kernel, and as much more padding: every output sees the same products, and more that are 0.
A continuous kernel is sampled anew: how, is a buffer of it, which a change replaces.

What is planned here is of tensors only. The module's numbers follow from them: its kernel is as large as its weight,
and for each 2 that the weight gained the padding grew by the dilation ("same" stays, "valid" is 0 before).
"""

from __future__ import annotations

from torch import nn

from dni.growth.continuous_kernel import ContinuousConv
from dni.structure.change import TensorChange
from dni.structure.followers import AxisChange
from dni.structure.origin import Origin

__all__ = ["extend_kernel_change", "narrow_kernel_change", "resample_kernel_change", "widen_kernel_change"]

_KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def widen_kernel_change(layer: nn.Module, name: str, *, by: int = 2) -> dict[str, TensorChange]:
    """Grow a kernel from k to k + `by` by zeros in each dimension; the output is unchanged.

    The weight is (O, I / groups, *kernel).

    Args:
        layer: Conv1d to Conv3d, grouped or not, whose padding is of zeros.
        name: of the layer.
        by: even, so that the middle stays in the middle.

    Returns:
        By the name of the weight, whose optimiser state follows; new entries have none.

    Raises:
        TypeError: the layer is of another kind; a transposed convolution, for one.
        ValueError: it pads otherwise (what is padded beyond the input's size may not be there), or `by` is not even.
    """
    sizes = _sizes(layer, name, by)
    origins = [Origin.insert((*range(by // 2), *range(size + by // 2, size + by)), num_old=size) for size in sizes]
    return _change(name, origins)


def narrow_kernel_change(layer: nn.Module, name: str, *, by: int = 2) -> dict[str, TensorChange]:
    """Cut the outermost rings of a kernel, from k to k - `by`: undoes `widen_kernel_change`.

    The output loses what the rings added. Raises as that, and if the kernel or the padding is too small.
    """
    sizes = _sizes(layer, name, by)
    assert isinstance(layer, _KINDS)
    if min(sizes) <= by:
        raise ValueError(
            f"the kernel of {name} must be more than {by} wide to lose that, got {sizes}. Leave it as it is."
        )
    padding = (0,) * len(sizes) if layer.padding == "valid" else layer.padding
    if isinstance(padding, tuple) and any(
        own < rate * by // 2 for own, rate in zip(padding, layer.dilation, strict=True)
    ):
        raise ValueError(
            f"only as much of a kernel can be cut as was padded, {by // 2} times the dilation {layer.dilation} of "
            f"{name}, got padding {layer.padding}. Leave it as it is."
        )
    return _change(name, [Origin.keep(range(by // 2, size - by // 2), num_old=size) for size in sizes])


def resample_kernel_change(layer: ContinuousConv, name: str, size: int) -> dict[str, TensorChange]:
    """Sample a continuous kernel more finely: the same function of place, with `size` taps in the same reach.

    For an input that is sampled as much more finely: see `ContinuousConv.resampling`. Raises as that.

    Returns:
        By the name of the buffer that says how it is sampled; empty if it has as many taps.
    """
    return {f"{name}.sampling": TensorChange(value=layer.resampling(size))} if size != layer.size else {}


def extend_kernel_change(layer: ContinuousConv, name: str, size: int) -> dict[str, TensorChange]:
    """Let a continuous kernel reach farther: the same taps, and more beyond them; see `ContinuousConv.extension`.

    Returns and raises as `resample_kernel_change`.
    """
    return {f"{name}.sampling": TensorChange(value=layer.extension(size))} if size != layer.size else {}


def _change(name: str, origins: list[Origin]) -> dict[str, TensorChange]:
    axes = (AxisChange(axis=axis, origin=origin, side="consumer") for axis, origin in enumerate(origins, start=2))
    return {f"{name}.weight": TensorChange(axes=tuple(axes))}


def _sizes(layer: nn.Module, name: str, by: int) -> tuple[int, ...]:
    if type(layer) not in _KINDS or not isinstance(layer, _KINDS):
        raise TypeError(
            f"the kernel of a {', '.join(kind.__name__ for kind in _KINDS)} can change, but {name} is "
            f"{type(layer).__name__}. Choose another layer."
        )
    if layer.padding_mode != "zeros":
        raise ValueError(
            f"a kernel can change where the padding is of zeros, but {name} has padding_mode "
            f"{layer.padding_mode!r}, which cannot pad as much as is needed of every input. Choose another layer."
        )
    if by < 2 or by % 2:
        raise ValueError(f"a kernel changes by an even number, 2 or more, so that its middle stays, got {by}.")
    return tuple(layer.weight.shape[2:])
