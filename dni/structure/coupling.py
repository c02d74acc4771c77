"""Which tensors of a module follow the units of one of its layers, whatever the module looks like?

torch-pruning proposes (`dni.structure.dependencies`), and the module itself proves it (`dni.structure.relabelling`):
with every unit replaced by two that share it, it has to compute the same. What it cannot find, a module may say itself:

    def coupled_units(self) -> Sequence[tuple[tuple[str, ...], tuple[str, ...], int]]:
        '''Producers, consumers, and channels to a unit, by names within the module: heads of attention.'''

    def fit_units_(self) -> None:
        '''Called when sizes of its layers have changed: set what follows from them, a number of heads.'''
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from dni.structure.dependencies import END, START, Reached, bare_copy, reached_from
from dni.structure.hidden import Hidden
from dni.structure.relabelling import agreeing_axes, disturb_, run_unseen
from dni.structure.unit_axis import UnitAxis
from dni.structure.unit_layers import (
    PASSING,
    WEIGHTED,
    LayerUnits,
    check_kind,
    computed_by,
    is_depthwise,
    passed_by,
    read_by,
    width_of,
)

__all__ = ["Coupled", "units_of", "units_read"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupled:
    """What follows some units within a module, and whether that is all."""

    hidden: Hidden
    output: UnitAxis | None
    """Where the module's output carries them, so that what reads it has to follow; None: it does not."""
    input: UnitAxis | None
    """Where its input carries them, so that what computes it has to follow (a residual stream); None: it does not."""

    @property
    def reaches_output(self) -> bool:
        """Whether the module's output carries the units."""
        return self.output is not None

    @property
    def reaches_input(self) -> bool:
        """Whether the module's input carries them."""
        return self.input is not None


def units_of(module: nn.Module, layer: str, example: Tensor, *, unit_size: int = 1) -> Coupled:
    """All that follows the units that a layer computes.

    Works on a copy: the module and its hooks, statistics, gradients and mode, and the generators, are left as they are.

    Args:
        module: the network, or a stage.
        layer: name within it of a Linear or Conv1d to Conv3d, of any width.
        example: an input, (N, *F); two of its samples are used.
        unit_size: neighbouring channels that make a unit: the width of a head. A module's own `coupled_units` says it
            for the layers it names.

    Returns:
        The units, with tensors by their names within the module. If nothing in it reads them, they are its output.

    Raises:
        ValueError: there is no such layer, it has no whole units, a parameter among what follows is tied, a grouped
            convolution is among it, or the module would not compute the same with what was found.
        TypeError: the layer, or one that follows, is of a kind whose units cannot change (recurrent layers,
            MultiheadAttention, Embedding, parameters of unknown modules), or the module cannot be copied.
    """
    modules = dict(module.named_modules())
    if layer not in modules:
        raise ValueError(f"there is no layer {layer!r} in the module; it has {', '.join(filter(None, modules))}.")
    check_kind(layer, modules[layer], WEIGHTED)
    count = width_of(modules[layer], axis=0)
    assert count is not None
    if unit_size < 1 or count % unit_size:
        raise ValueError(f"{layer} has {count} channels, which are no units of {unit_size} each.")
    bare, x = bare_copy(module), example[:2].detach()
    disturb_(bare)
    if (hidden := _said(module, layer)) is not None:
        return _proven(hidden, layer, bare, x, run_unseen(bare, x), inputs=[], outputs=[])
    found, y = reached_from(bare, x, layer, count=count)
    unit_of = _units(found, count, unit_size)
    hidden, ends = _assembled(module, found, unit_of, layer), {reached.name: reached for reached in found}
    return _proven(
        hidden, layer, bare, x, y, inputs=_along(ends.get(START), unit_of, x), outputs=_along(ends.get(END), unit_of, y)
    )


def units_read(module: nn.Module, example: Tensor, *, axis: int = 1) -> Coupled:
    """All that follows the units of a module's input, each entry of it one.

    Args:
        module: the stage above the one that computes them. Left as it is, as by `units_of`.
        example: an input, (N, *F), floating point; two of its samples are used.
        axis: along which the units lie; the last one for tokens (N, T, C).

    Returns:
        The units; `input` is that axis, all of it.

    Raises:
        ValueError: as `units_of`; or the example is not floating point, or several entries are one unit to the module.
        TypeError: as `units_of`.
    """
    what = f"the input along axis {axis}"
    if not example.is_floating_point() or axis == 0 or not -example.dim() < axis < example.dim():
        raise ValueError(
            f"units of the input must be numbers along an axis after that of the samples, got {example.dtype} of "
            f"{tuple(example.shape)} and axis {axis}. Change the layer that reads them instead."
        )
    axis %= example.dim()
    count = example.shape[axis]
    bare, x = bare_copy(module), example[:2].detach()
    disturb_(bare)
    found, y = reached_from(bare, x, START, count=count)
    unit_of = _units(found, count, 1)
    if max(unit_of) + 1 != count:
        raise ValueError(
            f"{what} has {count} entries, but to the module they are {max(unit_of) + 1} units of several each, as for "
            "a gate that multiplies halves. Let that layer be in the stage that computes them."
        )
    hidden, ends = _assembled(module, found, unit_of, what), {reached.name: reached for reached in found}
    return _proven(hidden, what, bare, x, y, inputs=[UnitAxis(axis=axis)], outputs=_along(ends.get(END), unit_of, y))


def _said(module: nn.Module, layer: str) -> Hidden | None:
    """What a module within says of the units of its layer."""
    for path, part in module.named_modules():
        say = getattr(part, "coupled_units", None)
        for producers, consumers, unit_size in say() if callable(say) else ():
            names = [[f"{path}.{own}" if path else own for own in side] for side in (producers, consumers)]
            if layer in names[0]:
                return Hidden.of(module, producers=names[0], consumers=names[1], unit_size=unit_size)
    return None


def _units(found: Iterable[Reached], count: int, unit_size: int) -> list[int]:
    """The unit of each channel of the root: channels that meet in one entry are of one unit, in the order of the first.

    So it is for a gate that multiplies one half of the channels by the other.
    """
    parent = [channel - channel % unit_size for channel in range(count)]

    def top(channel: int) -> int:
        while parent[channel] != channel:
            parent[channel] = channel = parent[parent[channel]]
        return channel

    for reached in found:
        first: dict[int, int] = {}
        for entry, channel in reached.entries:
            one, other = top(first.setdefault(entry, channel)), top(channel)
            parent[max(one, other)] = min(one, other)
    order = {channel: unit for unit, channel in enumerate(each for each in range(count) if top(each) == each)}
    return [order[top(channel)] for channel in range(count)]


def _entries(reached: Reached, unit_of: Sequence[int], width: int) -> list[int]:
    """The unit of each entry, -1 for none; empty if there are entries beyond the width."""
    units = [-1] * width
    for entry, channel in reached.entries:
        if entry >= width:
            return []
        units[entry] = unit_of[channel]
    return units


def _assembled(module: nn.Module, found: Iterable[Reached], unit_of: Sequence[int], root: str) -> Hidden:
    num_units, parts = max(unit_of) + 1, []
    for reached in found:
        if reached.name in (START, END):
            continue
        if isinstance(reached.layer, Tensor):
            raise TypeError(
                f"{reached.name}, a parameter {tuple(reached.layer.shape)}, would have to follow the {num_units} units "
                f"of {root}, and how is not known. Choose another layer, or put the parameter into a layer of torch."
            )
        layer = module.get_submodule(reached.name)
        if is_depthwise(layer) or reached.way != "passed":
            check_kind(reached.name, layer, WEIGHTED)
        else:
            check_kind(reached.name, layer, PASSING)
        width = width_of(layer, axis=int(reached.way == "read")) or 0
        if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
            continue
        at = UnitAxis.found(_entries(reached, unit_of, width), num_units=num_units)
        if at is None:
            raise ValueError(
                f"{reached.name} has the {num_units} units of {root} scattered, or only some of them, among its "
                f"{width} entries, so they cannot change together. Choose another layer, or say with a method "
                "coupled_units() what belongs together."
            )
        parts.append(_held(reached, layer, at, num_units))
    return Hidden.assembled(module, parts, num_units=num_units)


def _held(reached: Reached, layer: nn.Module, at: UnitAxis, num_units: int) -> LayerUnits:
    if is_depthwise(layer) or reached.way == "computed":
        return computed_by(reached.name, layer, at)
    if reached.way == "read":
        return read_by(reached.name, layer, at)
    return passed_by(reached.name, layer, at, num_units=num_units)


def _along(end: Reached | None, unit_of: Sequence[int], h: Tensor) -> list[UnitAxis]:
    """Where the units may lie in what enters or leaves the module: along which axis, torch-pruning does not say."""
    if end is None:
        return []
    num_units = max(unit_of) + 1
    axes = (
        UnitAxis.found(_entries(end, unit_of, h.shape[axis]), num_units=num_units, axis=axis)
        for axis in range(1, h.dim())
    )
    return [axis for axis in axes if axis is not None]


def _proven(
    hidden: Hidden,
    root: str,
    bare: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    inputs: Sequence[UnitAxis],
    outputs: Sequence[UnitAxis],
) -> Coupled:
    try:
        entered, left = agreeing_axes(bare, hidden, x, y, inputs=inputs, outputs=outputs)
    except ValueError as error:
        raise ValueError(
            f"the {hidden.num_units} units of {root} cannot be followed: with "
            f"{', '.join(hidden.tensors) or 'nothing'} changed together the module must compute the same, but {error}. "
            "Something else works on them: a size written into the code, or an operation across units. Choose another "
            "layer, or say with a method coupled_units() what belongs together."
        ) from error
    return Coupled(hidden=hidden, output=left, input=entered)
