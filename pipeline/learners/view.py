"""What does an event see of a stage?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from dni import Coupled, Hidden, Keyed, Masks, fresh_values, units_of, units_read
from pipeline.learners.body import Body
from pipeline.learners.watch import Read, Watch

__all__ = ["View"]


class View:
    """One stage, to be looked at only. All names are global.

    Args:
        body: the stage's module and optimiser.
        example: an input of the stage, two samples.
        gradients: averaged, by parameter, of the update before.
        watch: what was measured of units.
        state: what the event's last plan has left.
        known: couplings that were found, by layer, as long as the structure is this.
    """

    def __init__(
        self,
        body: Body,
        *,
        example: Tensor | None,
        gradients: Mapping[str, Tensor],
        watch: Watch,
        state: Mapping[str, Any],
        known: dict[str, Coupled],
    ) -> None:
        self._body = body
        self._known = known
        self._example = example
        self._watch = watch
        self._names = body.naming.of(body.module)
        self.gradients = gradients
        """By parameter, if an event asks for them."""
        self.state = state
        """What the event's last plan has left; empty before the first."""

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """All of the stage."""
        return {self._names[name]: parameter for name, parameter in self._body.module.named_parameters()}

    @property
    def activity(self) -> Mapping[str, Tensor]:
        """By layer, (U,)."""
        return self._watch.activity()

    @property
    def taylor(self) -> Mapping[str, Tensor]:
        """By layer, (U,)."""
        return self._watch.taylor()

    @property
    def auxiliary(self) -> Mapping[str, Tensor]:
        """By layer."""
        return self._watch.auxiliary()

    @property
    def initial(self) -> Mapping[str, Tensor]:
        """By parameter that learns, if an event asks for it."""
        return self._body.initial

    @property
    def kept(self) -> Masks:
        """The masks that are held."""
        return self._body.parts.updater.masks

    def has(self, name: str) -> bool:
        """Whether a module of this name, or something within one, is in the stage."""
        return self._body.naming.has(self._body.module, name)

    def layer(self, name: str) -> nn.Module:
        """A module of the stage."""
        return self._body.module.get_submodule(self._local_layer(name))

    def units(self, layer: str) -> Hidden:
        """The units that a layer computes.

        Raises:
            ValueError, TypeError: they cannot change.
        """
        return self.coupled(layer).hidden

    def coupled(self, layer: str) -> Coupled:
        """The units that a layer computes, and whether other stages have them, too.

        Raises:
            ValueError, TypeError: they cannot change.
        """
        if layer in self._known:
            return self._known[layer]
        found = units_of(self._body.module, self._local_layer(layer), self._sample())
        if found.reaches_input:
            raise ValueError(
                f"the {found.hidden.num_units} units of {layer} are those of the stage's input, too (a residual stream "
                "that comes from the stage below), and units of several boundaries cannot change. Choose a layer "
                "within a block, or cut the network elsewhere."
            )
        self._known[layer] = self._renamed(found)
        return self._known[layer]

    def coupled_input(self, axis: int) -> Coupled:
        """What follows the units of the stage's input.

        Raises:
            ValueError, TypeError: they cannot change.
        """
        found = units_read(self._body.module, self._sample(), axis=axis)
        if found.reaches_output:
            raise ValueError(
                f"the {found.hidden.num_units} units that the stage below sends pass through this stage to the next "
                "(a residual stream, or no layer with weights here), and units of several boundaries cannot change. "
                "Choose a layer within a block, or cut the network elsewhere."
            )
        return self._renamed(found)

    def fresh(self, layer: str, keyed: Keyed) -> Mapping[str, Tensor]:
        """Initial values, drawn now, of all parameters and running statistics within a module."""
        prefix = f"{layer}." if layer else ""
        values = fresh_values(self.layer(layer), lambda name: keyed(f"{prefix}{name}" if name else layer))
        return {f"{prefix}{name}": value for name, value in values.items()}

    def read(self, layer: str) -> Read:
        """Where the units of a layer are read.

        Raises:
            ValueError, TypeError: they cannot be followed.
        """
        coupled = self.coupled(layer)
        readers = [(name, own) for name, own in coupled.hidden.sides("consumer") if name.endswith(".weight")]
        producer = self.layer(layer)
        if readers:
            name, own = readers[0]
            consumer = self.layer(name.removesuffix(".weight"))
            return Read(producer=producer, num_units=coupled.hidden.num_units, consumer=consumer, at=own.at)
        assert coupled.output is not None, "units that nothing reads are not found"
        return Read(producer=producer, num_units=coupled.hidden.num_units, consumer=None, at=coupled.output)

    def _sample(self) -> Tensor:
        if self._example is None:
            raise ValueError("the stage must have one tensor as its input, and have seen one, for units to change.")
        return self._example

    def _local_layer(self, name: str) -> str:
        local = self._body.naming.local(name)
        if local is None or local not in dict(self._body.module.named_modules()):
            raise ValueError(
                f"there is no layer {name!r} in this stage, or stages share it. Name the layers within it."
            )
        return local

    def _renamed(self, found: Coupled) -> Coupled:
        tensors = {self._names[name]: own for name, own in found.hidden.tensors.items()}
        return replace(found, hidden=replace(found.hidden, tensors=tensors))
