"""How is a layer kept from what new units tell it, entry by entry, and no name changes?

A gated layer multiplies what it reads by one factor per entry before its weight does, y = W (g h): with g = 1 for
units that were there and alpha for new ones, y = W_old h_old + alpha V s(U x), the new component's outgoing weights
scaled by one alpha common to all of it. The gate is a buffer `unit_gate` of the layer that reads, so parameters keep
their names, a checkpoint has it, and it can be folded into the weight, W diag(g), at any time. Both sides see gradients
in proportion to alpha.

A microbatch may be on its way, and its graph holds the gate of its forward, so a gate is never written into: the layer
gets a new one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from dni.growth.attach import component_ends, read_beside

__all__ = ["fit_gates_", "fold_", "gate_", "without_gates"]

_GATE = "unit_gate"
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def gate_(layer: nn.Module, entries: Sequence[int], alpha: float) -> None:
    """Let a layer read these entries multiplied by alpha; a gate is put in if it has none, open for all others.

    Components attached beside the layer read through the same gate.

    Args:
        layer: Linear, or Conv1d to Conv3d, grouped or not.
        entries: of what it reads: features along the last axis (Linear), channels (convolutions).
        alpha: in [0, 1].

    Raises:
        TypeError: the layer is of another kind (a subclass may use its weight otherwise).
        ValueError: alpha or an entry is out of range.
    """
    _check_kind(layer)
    num_read = _num_read(layer)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}.")
    if outside := [entry for entry in entries if not 0 <= entry < num_read]:
        raise ValueError(
            f"the gate of a {type(layer).__name__} that reads {num_read} entries has factors 0 to {num_read - 1}, got "
            f"entries {outside}. Count entries, not units, behind a flattening: Origin.expand."
        )
    old = _gate_of(layer)
    gate = _open_gate(layer) if old is None else old.clone()
    gate[list(entries)] = alpha
    _set_gate_(layer, gate)


def fold_(layer: nn.Module, entries: Sequence[int] | None = None) -> None:
    """Fold a gate into the weight: the same function. Where all of it is folded or open, the gate is removed.

    Weights are written into, as by an optimiser; where the gate is 1 nothing is, and they keep their bits. The state of
    an optimiser stays as it is, which is right only at 1: what it has seen are gradients in proportion to alpha.

    Args:
        layer: what it reads may be gated; if not, nothing is done.
        entries: whose factors are folded; None: all.
    """
    gate = _gate_of(layer)
    if gate is None:
        return
    chosen = torch.zeros_like(gate, dtype=torch.bool)
    chosen[slice(None) if entries is None else list(entries)] = True
    factors = torch.where(chosen, gate, torch.ones_like(gate))
    if bool((factors != 1).any()):
        readers = [layer, *(layer.get_submodule(reads) for reads, _ in component_ends(layer))]
        with torch.no_grad():
            for reader in readers:
                weight = reader.get_parameter("weight")
                weight.mul_(_by_column(factors, weight))
    rest = torch.where(chosen, torch.ones_like(gate), gate)
    if bool((rest == 1).all()):
        _remove_gate_(layer)
    else:
        _set_gate_(layer, rest)


def fit_gates_(module: nn.Module, names: Collection[str]) -> None:
    """Give a gate to exactly those layers whose gate is among the names of tensors, of a checkpoint for one.

    Gates that are put in are open, and as long as what their weight reads now; what loads them may have to make both
    longer. Gates that are not among the names are removed, not folded.

    Raises:
        ValueError: a name is that of a gate of no layer that could have one.
    """
    wanted = set(filter(_is_gate, names))
    layers = {f"{path}.{_GATE}" if path else _GATE: layer for path, layer in module.named_modules()}
    can = {name for name, layer in layers.items() if type(layer) in _KINDS}
    if lost := wanted - can:
        raise ValueError(
            f"gates belong to layers that are Linear or convolutions, but {', '.join(sorted(lost))} would not. Build "
            "the module that the names were taken from, and apply its edits, before its gates are fitted."
        )
    for name in can:
        has = _gate_of(layers[name]) is not None
        if has and name not in wanted:
            _remove_gate_(layers[name])
        elif not has and name in wanted:
            _set_gate_(layers[name], _open_gate(layers[name]))


def without_gates(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors with every gate folded into the weights that it is for: what is exported. Same order.

    Args:
        tensors: by name, a gate's layer's weights among them. Left as they are; what no gate is for is not copied.
    """
    folded = {name: tensor for name, tensor in tensors.items() if not _is_gate(name)}
    for name in filter(_is_gate, tensors):
        prefix = name.removesuffix(_GATE)
        for weight in (other for other in folded if other == f"{prefix}weight" or read_beside(other, prefix)):
            own = folded[weight].detach()
            folded[weight] = own * _by_column(tensors[name], own)
    return folded


def _scale_input(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The hook. It finds the gate by name, so a copy of the layer has its own, and functional calls may replace it."""
    if not args:
        raise TypeError(f"a gated {type(layer).__name__} must be called as layer(x), got x by keyword.")
    gate = _gate_of(layer)
    assert gate is not None
    num_axes = layer.weight.dim() - 2  # type: ignore[operator]  # no parameter in a functional call with other weights
    return (args[0] * gate.to(args[0].dtype).view(-1, *[1] * num_axes), *args[1:])


def _by_column(gate: Tensor, weight: Tensor) -> Tensor:
    """The factors (E,) of what a weight (O, E / groups, *kernel) reads, to be broadcast against it."""
    num_groups = len(gate) // weight.shape[1]
    rows = gate.view(num_groups, -1)
    if num_groups > 1:
        rows = rows.repeat_interleave(weight.shape[0] // num_groups, dim=0)
    return rows.view(*rows.shape, *[1] * (weight.dim() - 2))


def _open_gate(layer: nn.Module) -> Tensor:
    weight = layer.get_parameter("weight").detach()
    return torch.ones(_num_read(layer), dtype=weight.dtype, device=weight.device)


def _num_read(layer: nn.Module) -> int:
    groups = layer.groups if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) else 1
    return int(layer.get_parameter("weight").shape[1]) * groups


def _gate_of(layer: nn.Module) -> Tensor | None:
    return layer._buffers.get(_GATE)


def _set_gate_(layer: nn.Module, gate: Tensor) -> None:
    if _gate_of(layer) is None:
        layer.register_forward_pre_hook(_scale_input)
    layer.register_buffer(_GATE, gate)


def _remove_gate_(layer: nn.Module) -> None:
    for key in [key for key, hook in layer._forward_pre_hooks.items() if hook is _scale_input]:
        del layer._forward_pre_hooks[key]  # found by what it is: a handle would be that of the layer before a copy
    delattr(layer, _GATE)


def _is_gate(name: str) -> bool:
    return name == _GATE or name.endswith(f".{_GATE}")


def _check_kind(layer: nn.Module) -> None:
    if type(layer) not in _KINDS:
        raise TypeError(
            f"a gate belongs to a layer of kind {', '.join(kind.__name__ for kind in _KINDS)}, got "
            f"{type(layer).__name__}. Grow without a ramp, by an initial scale."
        )
