"""How does a convolution get another kernel?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from dni.cadences.blocks import Shapes
from dni.events.plan import TensorPlan
from dni.events.targets import check_held, check_names, held
from dni.events.view import Measure, StageView
from dni.growth.continuous_kernel import ContinuousConv
from dni.structure.change import TensorChange
from dni.structure.followers import AxisChange
from dni.structure.keyed import Keyed
from dni.structure.origin import Origin

__all__ = ["ExtendKernel", "ResampleKernel", "WidenKernel"]


@dataclass(frozen=True, kw_only=True)
class WidenKernel:
    """Put zeros around the kernels of some convolutions, see `widen_kernel`.

    The plan has the weights; with a padding that is as much larger, times the dilation, outputs stay as they are.
    """

    layers: tuple[str, ...]
    """Conv1d, Conv2d or Conv3d."""
    by: int = 2
    """What is added to the width on every axis; even, half of it on each side."""
    at_most: int | None = None
    """Width that a kernel may have; more is refused. None: no limit."""

    def __post_init__(self) -> None:
        check_names(self.layers)
        if self.by < 2 or self.by % 2:
            raise ValueError(f"a kernel is widened evenly on both sides, by 2, 4, ..., got by={self.by}.")

    @property
    def name(self) -> str:
        return "widen kernel"

    @property
    def asks(self) -> Measure:
        return Measure.NOTHING

    def check(self, shapes: Shapes) -> None:
        check_held(self.layers, shapes, num_axes=3)

    def size_after(self, num_units: int) -> int | None:
        return num_units

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> TensorPlan | None:
        changes = {layer: self._rings(layer, view) for layer in held(self.layers, view)}
        if not changes:
            return None
        parts = [
            f"{layer} from {_sizes(axis.origin.num_old for axis in axes)} to "
            f"{_sizes(axis.origin.num_new for axis in axes)}"
            for layer, axes in changes.items()
        ]
        tensors = {f"{layer}.weight": TensorChange(axes=axes) for layer, axes in changes.items()}
        return TensorPlan(summary=f"widen the kernel of {', '.join(parts)}", step=step, tensors=tensors)

    def _rings(self, layer: str, view: StageView) -> tuple[AxisChange, ...]:
        module = view.layer(layer)
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            raise ValueError(
                f"the kernel of {layer} can be widened if it is a Conv1d, Conv2d or Conv3d, got {module}. Name another "
                "layer."
            )
        sizes = view.parameters[f"{layer}.weight"].shape[2:]
        if self.at_most is not None and max(sizes) + self.by > self.at_most:
            raise ValueError(
                f"the kernel of {layer} may be {self.at_most} wide at most, but widening {_sizes(sizes)} by {self.by} "
                f"makes it {_sizes(size + self.by for size in sizes)}. Have it less often, or raise at_most."
            )
        return tuple(
            AxisChange(axis=axis, origin=_ring(size, self.by // 2), side="consumer")
            for axis, size in enumerate(sizes, start=2)
        )


@dataclass(frozen=True, kw_only=True)
class ResampleKernel:
    """Sample continuous kernels at more (or fewer) taps, for data that are sampled more (less) finely from here on."""

    layers: tuple[str, ...]
    """`ContinuousConv`."""
    size: int
    """Taps on every axis; see `ContinuousConv.resampled`."""

    def __post_init__(self) -> None:
        check_names(self.layers)
        _check_taps(self.size)

    @property
    def name(self) -> str:
        return "resample kernel"

    @property
    def asks(self) -> Measure:
        return Measure.NOTHING

    def check(self, shapes: Shapes) -> None:
        check_held(self.layers, shapes)

    def size_after(self, num_units: int) -> int | None:
        return num_units

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> TensorPlan | None:
        before = {layer: _continuous(layer, view) for layer in held(self.layers, view)}
        after = {layer: module.resampled(self.size) for layer, module in before.items()}
        return _sampled(before, after, step=step, verb="resample")


@dataclass(frozen=True, kw_only=True)
class ExtendKernel:
    """Let continuous kernels reach further (or less far), at the same resolution."""

    layers: tuple[str, ...]
    """`ContinuousConv`."""
    size: int
    """Taps on every axis; see `ContinuousConv.extended`."""

    def __post_init__(self) -> None:
        check_names(self.layers)
        _check_taps(self.size)

    @property
    def name(self) -> str:
        return "extend kernel"

    @property
    def asks(self) -> Measure:
        return Measure.NOTHING

    def check(self, shapes: Shapes) -> None:
        check_held(self.layers, shapes)

    def size_after(self, num_units: int) -> int | None:
        return num_units

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> TensorPlan | None:
        before = {layer: _continuous(layer, view) for layer in held(self.layers, view)}
        after = {layer: module.extended(self.size) for layer, module in before.items()}
        return _sampled(before, after, step=step, verb="extend")


def _check_taps(size: int) -> None:
    if size < 2:
        raise ValueError(f"a continuous kernel has 2 taps or more on every axis, got {size}.")


def _ring(size: int, width: int) -> Origin:
    """As much that is new on each side of a kernel's axis."""
    return Origin.insert((*range(width), *range(size + width, size + 2 * width)), num_old=size)


def _sizes(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))


def _continuous(layer: str, view: StageView) -> ContinuousConv:
    module = view.layer(layer)
    if not isinstance(module, ContinuousConv):
        raise ValueError(f"the kernel of {layer} must be that of a ContinuousConv, got {module}. Use WidenKernel.")
    return module


def _sampled(
    before: dict[str, ContinuousConv], after: dict[str, ContinuousConv], *, step: int, verb: str
) -> TensorPlan | None:
    changed = {layer: module for layer, module in after.items() if module.size != before[layer].size}
    if not changed:
        return None
    parts = [f"{layer} from {before[layer].size} to {module.size} taps" for layer, module in changed.items()]
    tensors = {f"{layer}.sampling": TensorChange(value=module.sampling) for layer, module in changed.items()}
    return TensorPlan(summary=f"{verb} the kernel of {', '.join(parts)}", step=step, tensors=tensors)
