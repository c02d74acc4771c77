"""How does a convolution get another kernel?"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from dni.cadences.blocks import Shapes
from dni.events.plan import TensorPlan
from dni.events.targets import check_held, check_names, held
from dni.events.view import Measure, StageView
from dni.growth.continuous_kernel import ContinuousConv
from dni.growth.kernel import Padding, widen_kernel
from dni.structure.change import TensorChange
from dni.structure.followers import AxisChange
from dni.structure.keyed import Keyed

__all__ = ["ExtendKernel", "ResampleKernel", "WidenKernel"]


@dataclass(frozen=True, kw_only=True)
class WidenKernel:
    """Put zeros around the kernels of some convolutions, and as much padding: the output stays as it is."""

    layers: tuple[str, ...]
    """Conv1d, Conv2d or Conv3d, padded with zeros."""
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
        tensors: dict[str, TensorChange] = {}
        settings: dict[str, dict[str, Padding]] = {}
        parts = []
        for layer in held(self.layers, view):
            axes, own = self._widened(layer, view)
            tensors[f"{layer}.weight"] = TensorChange(axes=axes)
            settings[layer] = own
            before, after = (
                "x".join(map(str, sizes)) for sizes in ([axis.origin.num_old for axis in axes], own["kernel_size"])
            )
            parts.append(f"{layer} from {before} to {after}")
        if not tensors:
            return None
        return TensorPlan(
            summary=f"widen the kernel of {', '.join(parts)}", step=step, tensors=tensors, settings=settings
        )

    def _widened(self, layer: str, view: StageView) -> tuple[tuple[AxisChange, ...], dict[str, Padding]]:
        module = view.layer(layer)
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) or module.padding_mode != "zeros":
            raise ValueError(
                f"the kernel of {layer} can be widened if it is a Conv1d, Conv2d or Conv3d with padding_mode='zeros', "
                f"got {module}. Name another layer."
            )
        weight, padding = view.parameters[f"{layer}.weight"], module.padding
        axes: tuple[AxisChange, ...] = ()
        for _ in range(self.by // 2):
            ring = widen_kernel(weight, padding=padding, dilation=module.dilation)
            axes = tuple(map(_then, axes, ring.changes)) if axes else ring.changes
            weight, padding = ring.weight, ring.padding
        if self.at_most is not None and max(ring.kernel_size) > self.at_most:
            raise ValueError(
                f"the kernel of {layer} may be {self.at_most} wide at most, but widening it by {self.by} makes it "
                f"{ring.kernel_size}. Have it less often, or raise at_most."
            )
        return axes, {"padding": padding, "kernel_size": ring.kernel_size}


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


def _then(first: AxisChange, second: AxisChange) -> AxisChange:
    return AxisChange(axis=first.axis, origin=first.origin.then(second.origin), side=first.side)


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
