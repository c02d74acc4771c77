"""Which units does a layer get, so that it becomes larger?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from dni.cadences.blocks import Shapes
from dni.events.plan import UnitPlan
from dni.events.targets import check_amount, check_apart, check_held, check_names, held
from dni.events.view import Measure, StageView
from dni.growth.alpha import Ramp
from dni.growth.gradmax import gradmax_values
from dni.growth.widen import random_units
from dni.pruning.selection import Amount
from dni.structure.change import NewUnits, UnitChange
from dni.structure.hidden import Hidden
from dni.structure.keyed import Keyed
from dni.structure.origin import Origin

__all__ = ["GradMax", "Grow", "Widen"]


@dataclass(frozen=True, kw_only=True)
class Grow:
    """Append units to some layers, drawn as torch's layers begin, what reads them multiplied by alpha.

    alpha = 0 leaves the function as it is, 1 is random growth, between them is the phase-in by initial scale. With a
    ramp they are phased in by a gate. Under a LayerNorm or GroupNorm new units change the others, so growth that would
    leave the function as it is, by alpha 0 or a gate, is refused there.
    """

    layers: tuple[str, ...]
    """That compute the units."""
    amount: Amount
    """Of what is there when it comes to it."""
    alpha: float = 0.0
    """In [0, 1]; with a ramp, what the gate opens to: above 0."""
    ramp: Ramp | None = None
    """Of a gate in front of what reads the new units, which begins closed; None: there is none."""
    at_most: int | None = None
    """Units that a layer may have; more are refused. None: no limit."""

    def __post_init__(self) -> None:
        _check_growth(self.layers, self.amount, self.at_most)
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"alpha, the scale of what new units add, must lie in [0, 1], got {self.alpha}.")
        if self.ramp is not None and self.alpha == 0.0:
            raise ValueError(
                "a gate needs something behind it that it opens to, got alpha=0. Give alpha=1 with a ramp."
            )

    @property
    def name(self) -> str:
        return "grow"

    @property
    def asks(self) -> Measure:
        return Measure.NOTHING

    def check(self, shapes: Shapes) -> None:
        check_held(self.layers, shapes)

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> UnitPlan | None:
        new = NewUnits(alpha=self.alpha, ramp=self.ramp)
        origins = {}
        for layer, own in _units(self.layers, view).items():
            origins[layer] = _appended(own, self.amount, self.at_most)
            if self.alpha == 0.0 or self.ramp is not None:
                own.check_kept(origins[layer])
        gate = "" if self.ramp is None else ", behind a gate"
        return _growth(origins, new, step=step, what=f"grow (alpha {self.alpha:g}{gate})")


@dataclass(frozen=True, kw_only=True)
class GradMax:
    """Append units that would learn fastest: incoming weights 0, outgoing ones where the gradient is largest.

    The function is kept. Source and limits: `gradmax_values`: one layer that reads the units straight behind the
    activation, in the same stage.
    """

    layers: tuple[str, ...]
    """That compute the units; none of them reads another of them."""
    amount: Amount
    """Of what is there when it comes to it."""
    activation: Callable[[Tensor], Tensor]
    """Behind the layers; s(0) = 0 with a slope there, which torch's ReLU has not."""
    scale: float = 1.0
    """Norm of a new unit's outgoing weights, in the mean of the old."""
    at_most: int | None = None
    """Units that a layer may have; more are refused. None: no limit."""

    def __post_init__(self) -> None:
        _check_growth(self.layers, self.amount, self.at_most)
        if not self.scale > 0.0:
            raise ValueError(
                f"the scale of outgoing weights must be above 0, got {self.scale}: units that never learn."
            )

    @property
    def name(self) -> str:
        return "gradmax"

    @property
    def asks(self) -> Measure:
        return Measure.AUXILIARY

    def check(self, shapes: Shapes) -> None:
        check_held(self.layers, shapes, num_axes=2)

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> UnitPlan | None:
        units = _units(self.layers, view)
        origins, given = {}, {}
        for layer, own in units.items():
            origins[layer] = _appended(own, self.amount, self.at_most)
            own.check_kept(origins[layer])
            given[layer] = self._values(layer, own, len(origins[layer].fresh), view)
        names = [name for own in given.values() for name in own]
        if shared := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"the layers of one GradMax event must not read one another, but {', '.join(shared)} would change "
                "twice. Make an event of each; they may be due at the same step."
            )
        # alpha 1: the outgoing weights are meant as they are given.
        return _growth(origins, NewUnits(alpha=1.0), step=step, what="grow (GradMax)", given=given)

    def _values(self, layer: str, units: Hidden, count: int, view: StageView) -> dict[str, Tensor]:
        if layer not in view.auxiliary:
            raise ValueError(
                f"G of {layer} must have been measured for GradMax, got that of {', '.join(view.auxiliary) or 'none'}: "
                "it needs one layer of the stage that reads the units straight behind the activation. Use Grow."
            )
        return gradmax_values(units, view.auxiliary[layer], count, activation=self.activation, scale=self.scale)


@dataclass(frozen=True, kw_only=True)
class Widen:
    """Copy units, drawn with replacement; what reads them is divided among the copies, so the function is kept.

    Under a LayerNorm or GroupNorm it is kept only if all units are copied equally often: an amount of all of them, or a
    multiple (`Share(1.0)`), copies each, and any other is refused.

    Source: Chen et al. 2015 (Net2Net, arXiv 1511.05641). Differs: the noise keeps the function (`change_units`).
    """

    layers: tuple[str, ...]
    """That compute the units."""
    amount: Amount
    """Of what is there when it comes to it."""
    noise: float = 0.0
    """Standard deviation, in that of the weights, of what tells copies apart. With 0, and without dropout, copies stay
    alike for ever."""
    at_most: int | None = None
    """Units that a layer may have; more are refused. None: no limit."""

    def __post_init__(self) -> None:
        _check_growth(self.layers, self.amount, self.at_most)
        if not self.noise >= 0.0:
            raise ValueError(f"the noise on copies must be 0 or more, got {self.noise}.")

    @property
    def name(self) -> str:
        return "widen"

    @property
    def asks(self) -> Measure:
        return Measure.NOTHING

    def check(self, shapes: Shapes) -> None:
        check_held(self.layers, shapes)

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> UnitPlan | None:
        origins = {}
        for layer, own in _units(self.layers, view).items():
            size = _grown(own.num_units, self.amount, self.at_most)
            # Norms over units may also stand above, in the stage that reads them.
            even = own.mixes_units or not any(own.sides("consumer"))
            if even and size % own.num_units == 0:
                origins[layer] = Origin.repeat(size // own.num_units, num_old=own.num_units)
            else:
                copied = random_units(own.num_units, size - own.num_units, generator=keyed(layer))
                origins[layer] = Origin.duplicate(copied, num_old=own.num_units)
            own.check_kept(origins[layer])
        return _growth(origins, NewUnits(noise=self.noise), step=step, what=f"widen (noise {self.noise:g})")


def _units(layers: tuple[str, ...], view: StageView) -> dict[str, Hidden]:
    units = {layer: view.units(layer) for layer in held(layers, view)}
    check_apart(units)
    return units


def _growth(
    origins: Mapping[str, Origin],
    new: NewUnits,
    *,
    step: int,
    what: str,
    given: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> UnitPlan | None:
    larger = {layer: origin for layer, origin in origins.items() if origin.num_new > origin.num_old}
    if not larger:
        return None
    parts = [f"{layer} from {origin.num_old} to {origin.num_new} units" for layer, origin in larger.items()]
    verb, _, how = what.partition(" ")
    return UnitPlan(
        summary=f"{verb} {', '.join(parts)} {how}",
        step=step,
        changes=tuple(UnitChange(layer=layer, origin=origin, new=new) for layer, origin in larger.items()),
        given={layer: values for layer, values in (given or {}).items() if layer in larger},
    )


def _appended(units: Hidden, amount: Amount, at_most: int | None) -> Origin:
    return Origin.append(_grown(units.num_units, amount, at_most) - units.num_units, num_old=units.num_units)


def _grown(num_units: int, amount: Amount, at_most: int | None) -> int:
    size = num_units + amount.of(num_units)
    if at_most is not None and size > at_most:
        raise ValueError(
            f"a layer may have {at_most} units at most, but growing {num_units} by {amount} makes it {size}. Lower the "
            "amount, have it less often, or raise at_most."
        )
    return size


def _check_growth(layers: tuple[str, ...], amount: Amount, at_most: int | None) -> None:
    check_names(layers)
    check_amount(amount)
    if at_most is not None and at_most < 1:
        raise ValueError(f"a layer must be allowed 1 unit or more, got at_most={at_most}.")
