"""How does a convolution get another kernel?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dni.cadences.blocks import Shapes
from dni.events.plan import TensorPlan
from dni.events.targets import check_held, check_names, held
from dni.events.view import Measure, StageView
from dni.growth.continuous_kernel import ContinuousConv
from dni.growth.kernel import extend_kernel_change, resample_kernel_change, widen_kernel_change
from dni.structure.change import TensorChange
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

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> TensorPlan | None:
        tensors: dict[str, TensorChange] = {}
        parts = []
        for layer in held(self.layers, view):
            own = widen_kernel_change(view.layer(layer), layer, by=self.by)
            (change,) = own.values()
            before = "x".join(str(axis.origin.num_old) for axis in change.axes)
            after = "x".join(str(axis.origin.num_new) for axis in change.axes)
            if self.at_most is not None and max(axis.origin.num_new for axis in change.axes) > self.at_most:
                raise ValueError(
                    f"the kernel of {layer} may be {self.at_most} wide at most, but widening {before} by {self.by} "
                    f"makes it {after}. Have it less often, or raise at_most."
                )
            tensors |= own
            parts.append(f"{layer} from {before} to {after}")
        if not tensors:
            return None
        return TensorPlan(summary=f"widen the kernel of {', '.join(parts)}", step=step, tensors=tensors)


@dataclass(frozen=True, kw_only=True)
class ResampleKernel:
    """Sample continuous kernels at more taps, for data that are sampled more finely from here on."""

    layers: tuple[str, ...]
    """`ContinuousConv`."""
    size: int
    """Taps on every axis; see `ContinuousConv.resampling`."""

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

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> TensorPlan | None:
        return _sampled(self.layers, view, resample_kernel_change, size=self.size, step=step, verb="resample")


@dataclass(frozen=True, kw_only=True)
class ExtendKernel:
    """Let continuous kernels reach farther, at the same resolution."""

    layers: tuple[str, ...]
    """`ContinuousConv`."""
    size: int
    """Taps on every axis; see `ContinuousConv.extension`."""

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

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> TensorPlan | None:
        return _sampled(self.layers, view, extend_kernel_change, size=self.size, step=step, verb="extend")


def _check_taps(size: int) -> None:
    if size < 2:
        raise ValueError(f"a continuous kernel has 2 taps or more on every axis, got {size}.")


def _continuous(layer: str, view: StageView) -> ContinuousConv:
    module = view.layer(layer)
    if not isinstance(module, ContinuousConv):
        raise ValueError(f"the kernel of {layer} must be that of a ContinuousConv, got {module}. Use WidenKernel.")
    return module


def _sampled(
    layers: Sequence[str],
    view: StageView,
    change: Callable[[ContinuousConv, str, int], dict[str, TensorChange]],
    *,
    size: int,
    step: int,
    verb: str,
) -> TensorPlan | None:
    before = {layer: _continuous(layer, view) for layer in held(layers, view)}
    tensors = {name: own for layer, module in before.items() for name, own in change(module, layer, size).items()}
    parts = [f"{layer} from {module.size} to {size} taps" for layer, module in before.items() if module.size != size]
    if not parts:
        return None
    return TensorPlan(summary=f"{verb} the kernel of {', '.join(parts)}", step=step, tensors=tensors)
