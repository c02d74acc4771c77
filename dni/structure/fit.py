"""How does a module take over tensors of other shapes?

Parameters are replaced by new ones, because microbatches in flight still compute with the old ones; and the sizes that
a layer states beside its tensors become theirs. All of it is worked out before anything is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from torch import Tensor, nn

__all__ = ["fit_"]


def fit_(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give parameters and buffers of a module exactly these values, types and shapes.

    The named parameters become new `nn.Parameter` objects without a gradient, whose `requires_grad` is that of the old
    ones; buffers become new tensors. Old ones are left as they are, and what is not named stays. Hooks of an old
    parameter do not follow.

    Sizes that layers state follow the shapes. Where a convolution's kernel has become 2k wider, its padding is k times
    the dilation larger (smaller where it has shrunk), so that outputs keep their places; "same" stays. A depthwise
    convolution, one with as many groups as channels in, stays one. What a layer keeps beside its own tensors in the
    shape of its weight (feedback, masks) has to keep that shape. Layers of a user's own state no sizes that are known;
    those with a method `axis_changes` (`UnitFollower`) or `fit_units_` may change all the same. At the end `fit_units_`
    of every module that has one is called, to set what follows from sizes, as a number of heads.

    Args:
        module: changed in place: wholly, or, if anything is refused or fails, not at all.
        tensors: by their names within the module, as in its `state_dict`. Copied, to where the old ones are.

    Raises:
        ValueError: the module has no tensor of a name, or has it under other names too (tied), or the sizes of a layer
            contradict each other.
        TypeError: a shape changes in a layer whose sizes are not known, or a parameter would learn that is not of
            floating point.
    """
    held = _held(module)
    for name, tensor in tensors.items():
        _check(name, tensor, held)
    owners: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        path, _, own = name.rpartition(".")
        owners.setdefault(path, {})[own] = tensor
    new: list[tuple[nn.Module, str, Any]] = []
    for path, named in owners.items():
        owner = module.get_submodule(path)
        new += [(owner, key, _copied(tensor, getattr(owner, key))) for key, tensor in named.items()]
        new += [(owner, key, size) for key, size in _sizes(path, owner, named).items()]
    _replace_(module, new)


def _held(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, under each of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _check(name: str, tensor: Tensor, held: Mapping[str, Tensor]) -> None:
    if name not in held:
        raise ValueError(
            f"there is no tensor {name!r} in the module; it has {', '.join(held) or 'none'}. Use the names of its "
            "state_dict."
        )
    if len(aliases := [other for other, own in held.items() if own is held[name]]) > 1:
        raise ValueError(
            f"a tensor that is replaced must have one place, but {' and '.join(aliases)} are tied. Untie them, or "
            "leave them as they are."
        )
    if held[name].requires_grad and not (tensor.is_floating_point() or tensor.is_complex()):
        raise TypeError(f"{name} learns, so it must be of floating point, got {tensor.dtype}. Give it as it was.")


def _copied(tensor: Tensor, old: Tensor) -> Tensor:
    new = tensor.detach().to(old.device, copy=True)
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def _replace_(module: nn.Module, new: Sequence[tuple[nn.Module, str, Any]]) -> None:
    """Set all of it, or nothing: a module may refuse what is set in it."""
    telling = [part for part in module.modules() if callable(getattr(part, "fit_units_", None))]
    old = [(owner, key, getattr(owner, key)) for owner, key, _ in new]
    old += [(part, key, value) for part in telling for key, value in vars(part).items()]
    try:
        for owner, key, value in new:
            setattr(owner, key, value)
        for part in telling:
            part.fit_units_()  # type: ignore[operator]
    except BaseException:
        for owner, key, value in old:
            setattr(owner, key, value)
        raise


def _sizes(path: str, layer: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The sizes that a layer states, with these of its tensors."""
    before = {name: tuple(own.shape) for name, own in _held(layer).items() if "." not in name}
    after = before | {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if after == before:
        return {}
    changed = ", ".join(f"{name} {before[name]} to {after[name]}" for name in before if before[name] != after[name])
    kind = next((kind for kind in _KINDS if isinstance(layer, kind)), None)
    if kind is None:
        if any(callable(getattr(layer, name, None)) for name in ("axis_changes", "fit_units_")):
            return {}
        raise TypeError(
            f"{_named(path, layer)} is to change {changed}, but the sizes that a layer states are known of "
            f"{', '.join(known.__name__ for known in _KINDS)} only. Leave its shapes as they are, or give it a method "
            "fit_units_() that sets what follows from them."
        )
    try:
        twin = _KINDS[kind].make(kind, layer, after)
    except ValueError as error:
        raise ValueError(f"{_named(path, layer)} cannot change {changed}: {error}") from error
    needed = {name: tuple(own.shape) for name, own in _held(twin).items()}
    for name, shape in after.items():
        if name == "unit_gate":
            needed[name] = (needed["weight"][1] * getattr(twin, "groups", 1),)
        elif name not in needed:  # kept beside its own
            needed[name] = needed["weight"] if before[name] == before.get("weight") else before[name]
        if shape != needed[name]:
            raise ValueError(
                f"{_named(path, layer)} is to change {changed}; its {name} must then be {needed[name]}, got {shape}. "
                "Change all of its tensors in one event."
            )
    return {name: getattr(twin, name) for name in _KINDS[kind].sizes}


def _named(path: str, layer: nn.Module) -> str:
    return f"{path} ({type(layer).__name__})" if path else f"the module ({type(layer).__name__})"


_Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Of a layer's parameters and buffers, by their names in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What is known of a kind of layer."""

    make: Callable[[Any, Any, _Shapes], nn.Module]
    """A layer without memory of this kind, like another but with tensors of these shapes."""
    sizes: tuple[str, ...]
    """The names of what it states."""


def _linear(kind: Any, layer: nn.Linear, shapes: _Shapes) -> nn.Module:
    num_out, num_in = shapes["weight"]
    return nn.Linear(num_in, num_out, bias="bias" in shapes, device="meta")


def _convolution(kind: Any, layer: Any, shapes: _Shapes) -> Any:
    num_out, per_group, *kernel = shapes["weight"]
    groups = layer.groups
    if groups == layer.in_channels > 1:  # depthwise
        groups = num_out * groups // layer.out_channels
    return kind(
        per_group * groups,
        num_out,
        tuple(kernel),
        stride=layer.stride,
        padding=_padding(layer, kernel),
        dilation=layer.dilation,
        groups=groups,
        bias="bias" in shapes,
        padding_mode=layer.padding_mode,
        device="meta",
    )


def _padding(layer: Any, kernel: Sequence[int]) -> tuple[int, ...] | str:
    """The padding with which a kernel of another size leaves outputs where they are."""
    grown = [new - old for new, old in zip(kernel, layer.kernel_size, strict=True)]
    if layer.padding == "same" or not any(grown):
        return layer.padding  # type: ignore[no-any-return]
    if any(own % 2 for own in grown):
        raise ValueError(
            f"a kernel must change by as much on both sides, got {tuple(kernel)} instead of {layer.kernel_size}. Keep "
            "odd sizes odd, and even ones even."
        )
    before = (0,) * len(kernel) if layer.padding == "valid" else layer.padding
    after = tuple(pad + own // 2 * step for pad, own, step in zip(before, grown, layer.dilation, strict=True))
    if min(after) < 0:
        raise ValueError(f"its padding {before} would be {after}. Cut as much of a kernel as is padded, at most.")
    return after


def _batch_norm(kind: Any, layer: Any, shapes: _Shapes) -> Any:
    (num_features,) = shapes.get("weight") or shapes["running_mean"]
    return kind(num_features, affine="weight" in shapes, track_running_stats="running_mean" in shapes, device="meta")


def _layer_norm(kind: Any, layer: nn.LayerNorm, shapes: _Shapes) -> nn.Module:
    return nn.LayerNorm(shapes["weight"], bias="bias" in shapes, device="meta")


def _prelu(kind: Any, layer: nn.PReLU, shapes: _Shapes) -> nn.Module:
    return nn.PReLU(shapes["weight"][0], device="meta")


def _group_norm(kind: Any, layer: nn.GroupNorm, shapes: _Shapes) -> nn.Module:
    (num_channels,) = shapes["weight"]
    return nn.GroupNorm(layer.num_groups, num_channels, device="meta")


_CONVOLUTION = _Kind(
    make=_convolution,
    # The last is what torch pads by itself where the mode is not zeros.
    sizes=("in_channels", "out_channels", "kernel_size", "padding", "groups", "_reversed_padding_repeated_twice"),
)
_BATCH_NORM = _Kind(make=_batch_norm, sizes=("num_features",))
_KINDS: Mapping[type[nn.Module], _Kind] = MappingProxyType(
    {
        nn.Linear: _Kind(make=_linear, sizes=("in_features", "out_features")),
        nn.Conv1d: _CONVOLUTION,
        nn.Conv2d: _CONVOLUTION,
        nn.Conv3d: _CONVOLUTION,
        nn.BatchNorm1d: _BATCH_NORM,
        nn.BatchNorm2d: _BATCH_NORM,
        nn.BatchNorm3d: _BATCH_NORM,
        nn.LayerNorm: _Kind(make=_layer_norm, sizes=("normalized_shape",)),
        nn.PReLU: _Kind(make=_prelu, sizes=("num_parameters",)),
        nn.GroupNorm: _Kind(make=_group_norm, sizes=("num_channels",)),
    }
)
"""Layers that state sizes."""
