"""Which tensors follow the units of a layer, and may they change so?

Units (neurons, channels, heads) are computed by a layer, or by several whose outputs are added up; they pass norms and
activations one by one, and are read by the layers after it. `units_of` finds the tensors in a module of any kind;
`Hidden.of` takes their layers by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import lcm

import torch
from torch import Tensor, nn

from dni.structure.followers import AxisChange, Side
from dni.structure.origin import NEW, Origin
from dni.structure.remap import check_untied
from dni.structure.unit_axis import UnitAxis, UnitTensor
from dni.structure.unit_layers import (
    PASSING,
    WEIGHTED,
    LayerUnits,
    check_kind,
    computed_by,
    passed_by,
    read_by,
    width_of,
)

__all__ = ["Hidden", "outgoing_norm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """The units of a layer, and the tensors that follow them."""

    num_units: int
    tensors: Mapping[str, tuple[UnitTensor, ...]]
    """By their names: parameters, running statistics of norms, gates. One for each axis that follows: the weight of a
    layer that reads a sum and adds to it has two."""
    mixes_units: bool = False
    """Whether a norm takes its statistics over the units (LayerNorm, GroupNorm), so that a new unit changes others."""
    groups: int = 1
    """Equal runs of neighbouring units that a GroupNorm normalises apart."""

    @staticmethod
    def of(
        network: nn.Module,
        *,
        producers: Sequence[str],
        consumers: Sequence[str],
        norms: Sequence[str] = (),
        unit_size: int = 1,
    ) -> Hidden:
        """Find the tensors by the names of their layers.

        Args:
            network: left as it is.
            producers: Linear or Conv1d to Conv3d, all that compute the units; depthwise convolutions among them. One
                that computes several numbers for each (query, key and value) has them in runs of all units.
            consumers: those of the same kinds that read them; all of them.
            norms: BatchNorm, LayerNorm, GroupNorm or PReLU in between.
            unit_size: channels that make a unit: the width of a head.

        Raises:
            ValueError: there is no such layer, a parameter is tied, a convolution is grouped, or sizes do not fit.
            TypeError: the layer is of another kind.
        """
        if not producers or not consumers:
            raise ValueError(
                f"units must be computed by a layer and read by one, got producers {list(producers)} and consumers "
                f"{list(consumers)}. Name all of them."
            )
        layers = {name: _layer(network, name) for name in (*producers, *consumers, *norms)}
        for name, layer in layers.items():
            check_kind(name, layer, PASSING if name in norms else WEIGHTED)
        widths = {name: width_of(layers[name], axis=int(name in consumers)) or 1 for name in layers}
        # A layer may compute, or read, several entries for each channel of a unit, but no fewer.
        num_units = min(widths[name] for name in (*producers, *consumers)) // unit_size
        runs = {name: _runs(name, widths[name], num_units, unit_size) for name in producers}
        spread = {name: _spread(name, widths[name], num_units) for name in (*consumers, *norms)}
        parts = [computed_by(name, layers[name], runs[name]) for name in producers]
        parts += [passed_by(name, layers[name], spread[name], num_units=num_units) for name in norms]
        parts += [read_by(name, layers[name], spread[name]) for name in consumers]
        return Hidden.assembled(network, parts, num_units=num_units)

    @staticmethod
    def assembled(network: nn.Module, parts: Iterable[LayerUnits], *, num_units: int) -> Hidden:
        """Put together what layers of the network hold.

        Raises:
            ValueError: a parameter among it is tied.
        """
        tensors: dict[str, tuple[UnitTensor, ...]] = {}
        mixes_units, groups = False, 1
        for part in parts:
            mixes_units, groups = mixes_units or part.mixes_units, lcm(groups, part.groups)
            for name, own in part.tensors.items():
                tensors[name] = (*tensors.get(name, ()), own)
        parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
        for name in sorted(parameters & tensors.keys()):
            check_untied(network, name)
        return Hidden(num_units=num_units, tensors=tensors, mixes_units=mixes_units, groups=groups)

    def sides(self, side: Side) -> Iterator[tuple[str, UnitTensor]]:
        """The tensors that compute the units, or those that read them."""
        return ((name, own) for name, parts in self.tensors.items() for own in parts if own.side == side)

    def axes(self, origin: Origin) -> dict[str, tuple[AxisChange, ...]]:
        """How the axes of every tensor change when the units do.

        Raises:
            ValueError: the origin is of another number of units, or does not leave every group of a GroupNorm as many
                units, its own ones.
        """
        self._check(origin)
        return {name: tuple(own.change(origin) for own in parts) for name, parts in self.tensors.items()}

    def check_kept(self, origin: Origin) -> None:
        """Refuse a change that adds units, copies or removes some, where it would change what the others compute.

        Raises:
            ValueError: a norm takes its statistics over the units, and some are new, removed, or copied more often than
                others.
        """
        if not self.mixes_units:
            return
        if NEW in origin.sources:
            raise ValueError(
                "LayerNorm and GroupNorm take their statistics over units, so new ones change the old even with "
                f"outgoing weights of 0; got {len(origin.fresh)} new units for a layer of {self.num_units}. Copy every "
                "unit (Widen by a share of 1), or choose a layer without such a norm."
            )
        copies = Counter(origin.sources)
        counts = [copies[unit] for unit in range(self.num_units)]
        size = self.num_units // self.groups
        if any(len(set(counts[first : first + size])) > 1 for first in range(0, self.num_units, size)):
            raise ValueError(
                "LayerNorm and GroupNorm take their statistics over units, so the function is kept only if each is "
                f"there equally often, got each of {self.num_units} between {min(counts)} and {max(counts)} times. "
                "Copy all of them (Widen by a share of 1), or choose a layer without such a norm."
            )

    def _check(self, origin: Origin) -> None:
        if origin.num_old != self.num_units:
            raise ValueError(
                f"the layer has {self.num_units} units, the change is of {origin.num_old}. Plan it from the layer as "
                "it is now."
            )
        before = [source * self.groups // origin.num_old for source in origin.sources]
        after = [index * self.groups // origin.num_new for index in range(origin.num_new)]
        moved = any(old != new for old, new, source in zip(before, after, origin.sources, strict=True) if source != NEW)
        if moved or origin.num_new % self.groups:
            raise ValueError(
                f"a GroupNorm normalises the {self.num_units} units in {self.groups} groups of neighbours, so a change "
                f"must leave each as many units, its own ones; got {origin.num_new} units from {origin.sources}. "
                "Remove or copy equally many in each group."
            )


def outgoing_norm(hidden: Hidden) -> Tensor:
    """Σ|w| of all that reads each unit, (U,), for the utility of continual backprop.

    Raises:
        ValueError: nothing here reads them.
    """
    sums = [own.at.sum_by_unit(own.tensor.abs(), num_units=hidden.num_units) for _, own in hidden.sides("consumer")]
    if not sums:
        raise ValueError(
            f"the {hidden.num_units} units must be read by a layer, found only {', '.join(hidden.tensors)}. Where the "
            "stage above reads them, ask it."
        )
    return torch.stack(sums).sum(0)


def _layer(network: nn.Module, name: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(network.named_modules())
    if name not in modules:
        raise ValueError(f"there is no layer {name!r} in the network; it has {', '.join(filter(None, modules))}.")
    return modules[name]


def _runs(name: str, width: int, num_units: int, unit_size: int) -> UnitAxis:
    """Units as a layer computes them, of this size each: in one run, or in several."""
    size = num_units * unit_size
    if size == 0 or width % size:
        raise ValueError(
            f"{name} must compute units of {unit_size} channels, as many as the other producers or several times as "
            f"many; its {width} channels are no runs of {num_units} units. Name layers of the same units."
        )
    return UnitAxis(axis=0, block=unit_size, offsets=tuple(range(0, width, size)))


def _spread(name: str, width: int, num_units: int) -> UnitAxis:
    """Units as a layer reads or passes them: each as one entry or, flattened, as several."""
    if width % num_units:
        raise ValueError(
            f"{name} must read the {num_units} units, each as one entry or, flattened, as equally many; it has "
            f"{width}. Name the layers that read them."
        )
    return UnitAxis(axis=0, block=width // num_units)
