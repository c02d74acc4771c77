"""How does a trained network get whole new parts, and what was there keeps its names?

A part is a child module of the layer where it is attached, which a hook of that layer lets speak: a component beside a
layer, y = L(x) + V s(U x), and a layer inserted behind an activation, y = s(W s(x)) with W = 1. What was added is a
list of values, so a network can be built as it was: the same edits, in their order, on a fresh one.

    attached to "2"         parameters                                                  and a second one
    Component               2.component.0.weight, .0.bias (U), 2.component.2.weight (V)  2.component2.0.weight
    Insertion               2.inserted.0.weight, .0.bias (W)                             2.inserted2.0.weight

V has no bias, as that of L stands for both, so it is phased in by the gate of V, which is folded like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from dni.growth.part import Activation, Component, Edit, Insertion
from dni.growth.widen import identity_convolution, identity_linear
from dni.resets.fresh import fresh_values
from dni.structure.keyed import Keyed

__all__ = ["apply_edits_", "attach_", "component_ends", "read_beside"]

_ACTIVATIONS: Mapping[Activation, type[nn.Module]] = MappingProxyType(
    {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "elu": nn.ELU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
)
_IDEMPOTENT = (nn.ReLU, nn.ReLU6, nn.Identity)
_CONVOLUTIONS: tuple[type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BESIDE = re.compile(r"component\d*\.0\.weight")


def attach_(module: nn.Module, edit: Edit, keyed: Keyed) -> str:
    """Attach a part to a network. The function stays (a component: at alpha = 0, or behind a gate shut in time).

    Args:
        module: the network, or a stage. All of its parameters stay, as objects and by name.
        edit: the part.
        keyed: draws the initial values of each of its layers, by the layer's name in `module`.

    Returns:
        The name of the new child module.

    Raises:
        ValueError: there is no such layer, it is registered under two names, or the sizes do not fit.
        TypeError: it is of a kind that nothing can be attached to.
    """
    name = edit.layer if isinstance(edit, Component) else edit.behind
    place = _only_one(module, name)
    hook: Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]
    if isinstance(edit, Component):
        part: nn.Sequential = _Component(*_beside(edit, place))
        hook, own = _add_components, "component"
    else:
        part = _Inserted(*_behind(edit, place, like=_first_parameter(module)))
        hook, own = _pass_on, "inserted"
    parts = [child for child in place.children() if isinstance(child, type(part))]
    own = f"{own}{len(parts) + 1}" if parts else own
    child = f"{name}.{own}" if name else own
    if isinstance(edit, Component):
        _draw_(part, child, edit.alpha, keyed)
    if not parts:
        place.register_forward_hook(hook)
    place.add_module(own, part.train(place.training))
    return child


def apply_edits_(module: nn.Module, edits: Iterable[Edit], keyed: Keyed) -> None:
    """Attach parts in their order, to a network as it was built; see `attach_`."""
    for edit in edits:
        attach_(module, edit, keyed)


def component_ends(layer: nn.Module) -> list[tuple[str, str]]:
    """Of each component beside a layer, the names within it of what reads the layer's input, and what adds to its
    output: they follow a change of either as the layer itself does."""
    return [(f"{own}.0", f"{own}.2") for own, child in layer.named_children() if isinstance(child, _Component)]


def read_beside(name: str, prefix: str) -> bool:
    """Whether a tensor's name is that of a weight which reads the input of the layer with this prefix beside it."""
    return name.startswith(prefix) and _BESIDE.fullmatch(name.removeprefix(prefix)) is not None


class _Component(nn.Sequential):
    """U, s, V."""


class _Inserted(nn.Sequential):
    """W, s."""


def _add_components(layer: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """A hook, which finds the parts among the children, so a copy of the layer has its own."""
    if not args:
        raise TypeError(f"a {type(layer).__name__} with a component must be called as layer(x), got x by keyword.")
    for child in layer.children():
        if isinstance(child, _Component):
            y = y + child(args[0])
    return y


def _pass_on(activation: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
    for child in activation.children():
        if isinstance(child, _Inserted):
            y = child(y)
    return y


def _beside(edit: Component, layer: nn.Module) -> list[nn.Module]:
    kind = type(layer)
    activation = _ACTIVATIONS[edit.activation]()
    if isinstance(layer, nn.Linear) and kind is nn.Linear and not edit.kernel:
        incoming = _made(nn.Linear, layer.in_features, edit.units, like=layer.weight)
        outgoing = _made(nn.Linear, edit.units, layer.out_features, bias=False, like=layer.weight)
        return [incoming, activation, outgoing]
    if isinstance(layer, _CONVOLUTIONS) and kind in _CONVOLUTIONS:
        incoming = _made(kind, layer.in_channels, edit.units, **_window(edit, layer), like=layer.weight)
        outgoing = _made(kind, edit.units, layer.out_channels, 1, bias=False, like=layer.weight)
        return [incoming, activation, outgoing]
    raise TypeError(
        "a component stands beside a Conv1d, Conv2d, Conv3d or, without a kernel, a Linear; got kernel "
        f"{edit.kernel} beside {edit.layer}, which is {kind.__name__}. Choose another layer."
    )


def _window(edit: Component, layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> dict[str, Any]:
    """Kernel, stride, padding and dilation that give the output the sizes of the layer's."""
    own = {"stride": layer.stride, "padding_mode": layer.padding_mode}
    if not edit.kernel:
        return {**own, "kernel_size": layer.kernel_size, "padding": layer.padding, "dilation": layer.dilation}
    if len(edit.kernel) != len(layer.kernel_size):
        raise ValueError(
            f"the component's kernel must have as many sizes as that of {edit.layer}, {layer.kernel_size}, got "
            f"{edit.kernel}."
        )
    if layer.padding == "same":
        return {**own, "kernel_size": edit.kernel, "padding": "same"}
    before = (0,) * len(edit.kernel) if isinstance(layer.padding, str) else layer.padding
    doubled = [
        2 * padding + size - 1 - dilation * (old - 1)
        for padding, size, dilation, old in zip(before, edit.kernel, layer.dilation, layer.kernel_size, strict=True)
    ]
    if any(each < 0 or each % 2 for each in doubled):
        raise ValueError(
            f"with a kernel {edit.kernel} the component beside {edit.layer} (kernel {layer.kernel_size}, padding "
            f"{layer.padding}, dilation {layer.dilation}) would need a padding of {[each / 2 for each in doubled]} to "
            "put out as much. Take a kernel whose size differs by an even number, and is not smaller than is padded."
        )
    return {**own, "kernel_size": edit.kernel, "padding": tuple(each // 2 for each in doubled)}


def _behind(edit: Insertion, activation: nn.Module, *, like: Tensor) -> list[nn.Module]:
    if type(activation) not in _IDEMPOTENT:
        raise TypeError(
            "an identity layer keeps the function only behind an activation for which s(s(x)) = s(x), one of "
            f"{', '.join(kind.__name__ for kind in _IDEMPOTENT)}; {edit.behind} is {type(activation).__name__}. Choose "
            "another place, or add capacity beside a layer with a component."
        )
    again = type(activation)()
    if edit.kernel:
        padding = tuple(size // 2 for size in edit.kernel)
        kind = _CONVOLUTIONS[len(edit.kernel) - 1]
        layer = _made(kind, edit.units, edit.units, edit.kernel, padding=padding, like=like)
        weight, bias = identity_convolution(edit.units, kernel_size=edit.kernel, activation=again, dtype=like.dtype)
    else:
        layer = _made(nn.Linear, edit.units, edit.units, like=like)
        weight, bias = identity_linear(edit.units, activation=again, dtype=like.dtype)
    _set_(layer, {"weight": weight, "bias": bias})
    return [layer, again]


def _made(kind: type[nn.Module], *sizes: Any, like: Tensor, **settings: Any) -> nn.Module:
    """A layer whose initial values are not drawn, as torch would, from the process's generator."""
    return kind(*sizes, **settings, device="meta", dtype=like.dtype).to_empty(device=like.device)


def _draw_(part: nn.Sequential, child: str, alpha: float, keyed: Keyed) -> None:
    values = fresh_values(part, lambda name: keyed(f"{child}.{name}"))
    values["2.weight"] = values["2.weight"] * alpha
    _set_(part, values)


def _set_(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            module.get_parameter(name).copy_(value)


def _only_one(module: nn.Module, name: str) -> nn.Module:
    layers = dict(module.named_modules(remove_duplicate=False))
    if name not in layers:
        raise ValueError(f"there is no layer {name!r} to attach to; the network has {', '.join(filter(None, layers))}.")
    aliases = [other for other, layer in layers.items() if layer is layers[name]]
    if len(aliases) > 1:
        raise ValueError(
            f"a part is attached in one place, but {' and '.join(aliases)} are one module. Give each place its own."
        )
    found: nn.Module = layers[name]
    return found


def _first_parameter(module: nn.Module) -> Tensor:
    """What a new layer's numbers are like, where the place itself has none."""
    parameter = next(module.parameters(), None)
    return torch.zeros(()) if parameter is None else parameter
