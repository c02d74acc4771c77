"""Which tensors follow the units of a hidden layer?

Units (neurons, channels) are computed by one layer, pass norms and activations one by one, and are read by the layers
after it. What computes them has them along its first axis, what reads them along its second: there a channel is several
entries if it was flattened in between.

    units    tensors of                      axis    side
    made     producer: weight, bias          0       producer
    passed   norms: weight, bias, running    0       producer
    read     consumers: weight               1       consumer
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from types import MappingProxyType

from torch import Tensor, nn

from dni.structure.followers import AxisChange, Side, map_tensor
from dni.structure.origin import Origin
from dni.structure.remap import check_untied

__all__ = ["Hidden", "Resized", "UnitTensor", "keep_units"]

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_NORMS = (*_BATCH_NORMS, nn.LayerNorm)
_FRESH: Mapping[str, float] = MappingProxyType({"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0})
"""What the norms of torch begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTensor:
    """A tensor of a layer, one of whose axes is that of the units."""

    tensor: Tensor
    axis: int
    side: Side
    block: int = 1
    """Entries per unit along the axis."""
    fresh: float = 0.0
    """What a new unit begins with."""
    bound: float = 0.0
    """A new unit's entries are drawn from [-bound, bound], about `fresh`."""

    def change(self, origin: Origin) -> AxisChange:
        """The change of this tensor when the units change by an origin."""
        return AxisChange(axis=self.axis, origin=origin.expand(self.block), side=self.side)

    def shape_of(self, num_units: int) -> tuple[int, ...]:
        """Its shape with this many units."""
        shape = tuple(self.tensor.shape)
        return (*shape[: self.axis], num_units * self.block, *shape[self.axis + 1 :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Resized:
    """Tensors after a change of the units of one hidden layer. Those from before are left as they are."""

    tensors: dict[str, Tensor]
    """By the names of `Hidden.tensors`."""
    origin: Origin
    """Of the units."""
    changes: dict[str, AxisChange]
    """Of each tensor, for `remap_parameter`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """The units of a hidden layer, and the tensors that follow them."""

    num_units: int
    tensors: Mapping[str, UnitTensor]
    """By their global names: parameters, and the running statistics of norms."""
    mixes_units: bool = False
    """Whether a norm takes its statistics over the units (LayerNorm), so that a new unit changes the others."""

    @staticmethod
    def of(network: nn.Module, *, producer: str, consumers: Sequence[str], norms: Sequence[str] = ()) -> Hidden:
        """Find the tensors in a network, by the names of its modules.

        Args:
            network: left as it is.
            producer: Linear, Conv1d or Conv2d that computes the units.
            consumers: those of the same kinds that read them; all of them.
            norms: BatchNorm or LayerNorm in between.

        Raises:
            ValueError: there is no such layer, a parameter is tied, a convolution is grouped, or sizes do not fit.
            TypeError: the layer is of another kind.
        """
        layers = {name: _layer(network, name, _WEIGHTED) for name in (producer, *consumers)}
        between = {name: _layer(network, name, _NORMS) for name in norms}
        if not consumers:
            raise ValueError(f"the units of {producer} must be read by a layer, got no consumers. Name all of them.")
        num_units = int(_weight(layers[producer]).shape[0])
        tensors = dict(_made(producer, layers[producer]))
        for name, norm in between.items():
            tensors |= _passed(name, norm, num_units)
        for name in consumers:
            tensors |= _read(name, layers[name], num_units)
        parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
        for name in parameters & tensors.keys():
            check_untied(network, name)
        mixes = any(isinstance(norm, nn.LayerNorm) for norm in between.values())
        return Hidden(num_units=num_units, tensors=tensors, mixes_units=mixes)

    def sides(self, side: Side) -> dict[str, UnitTensor]:
        """The tensors that compute the units, or those that read them."""
        return {name: own for name, own in self.tensors.items() if own.side == side}

    def follow(self, origin: Origin) -> Resized:
        """All tensors, by sources and shares; new units are 0.

        Raises:
            ValueError: the origin is of another number of units.
        """
        changes = {name: own.change(origin) for name, own in self.tensors.items()}
        tensors = {name: map_tensor(own.tensor, [changes[name]], "value") for name, own in self.tensors.items()}
        return Resized(tensors=tensors, origin=origin, changes=changes)


def keep_units(hidden: Hidden, units: Iterable[int]) -> Resized:
    """Remove all units but these.

    Raises:
        ValueError: a unit is out of range or named twice, or none is left.
    """
    return hidden.follow(Origin.keep(units, num_old=hidden.num_units))


def _layer(network: nn.Module, name: str, kinds: tuple[type[nn.Module], ...]) -> nn.Module:
    modules = dict(network.named_modules())
    if name not in modules:
        raise ValueError(f"there is no layer {name!r} in the network; it has {', '.join(filter(None, modules))}.")
    layer: nn.Module = modules[name]
    if type(layer) not in kinds:
        raise TypeError(
            f"{name} must be one of {_names(kinds)} for its units to change, got {type(layer).__name__}. Choose "
            "another layer, or change this one by hand with Origin.apply."
        )
    if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups != 1:
        raise ValueError(
            f"{name} has {layer.groups} groups of {layer.in_channels // layer.groups} channels each; a unit belongs to "
            "one of them, so those of a grouped convolution cannot change by themselves. Choose a layer with groups=1."
        )
    return layer


def _made(name: str, layer: nn.Module) -> Iterable[tuple[str, UnitTensor]]:
    weight = _weight(layer)
    bound = 1 / sqrt(prod(weight.shape[1:]))  # as the layers of torch begin
    yield f"{name}.weight", UnitTensor(tensor=weight, axis=0, side="producer", bound=bound)
    if isinstance(layer.bias, Tensor):
        yield f"{name}.bias", UnitTensor(tensor=layer.bias.detach(), axis=0, side="producer", bound=bound)


def _passed(name: str, norm: nn.Module, num_units: int) -> dict[str, UnitTensor]:
    shape = norm.normalized_shape if isinstance(norm, nn.LayerNorm) else (norm.num_features,)
    assert isinstance(shape, tuple)
    if shape[0] != num_units:
        raise ValueError(f"{name} must normalise the {num_units} units along its first axis, it is of {shape}.")
    held = {own: getattr(norm, own, None) for own in _FRESH}
    return {
        f"{name}.{own}": UnitTensor(tensor=tensor.detach(), axis=0, side="producer", fresh=_FRESH[own])
        for own, tensor in held.items()
        if isinstance(tensor, Tensor)
    }


def _read(name: str, layer: nn.Module, num_units: int) -> dict[str, UnitTensor]:
    weight = _weight(layer)
    num_read = int(weight.shape[1])
    if num_read % num_units or (num_read != num_units and not isinstance(layer, nn.Linear)):
        raise ValueError(
            f"{name} must read the {num_units} units, each as one entry or, flattened, as equally many; its weight "
            f"{tuple(weight.shape)} reads {num_read}. Name the layer that reads them."
        )
    return {f"{name}.weight": UnitTensor(tensor=weight, axis=1, side="consumer", block=num_read // num_units)}


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight.detach()


def _names(kinds: tuple[type[nn.Module], ...]) -> str:
    return ", ".join(kind.__name__ for kind in kinds)
