"""What does a stage consist of, and how does all of it follow when its structure changes?

The module, and what knows its parameters: optimiser, accumulated gradients, masks, velocities. A change is applied as a
function of their state: everything is mapped first, then the module takes over the new tensors and the parts are made
anew and loaded with what was mapped, as they are when a run is resumed. If anything of it fails, the old structure
stays whole. Nothing writes into the old parameters, so microbatches in flight are finished with them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from dni import (
    Component,
    Edit,
    Keyed,
    Masks,
    Piece,
    TensorChange,
    apply_change,
    apply_edits_,
    attach_,
    edits_from_json,
    edits_to_json,
    fit_,
    fit_gates_,
    follow_tensor,
    map_tensor,
)
from pipeline.errors import CheckpointError
from pipeline.learners.naming import Naming
from pipeline.learners.parts import MakeParts, Remembered
from pipeline.learners.weights import AxisChanges
from pipeline.randomness.keyed import generator

__all__ = ["Body"]


class Body:
    """The module of one stage and the parts that know its parameters.

    Args:
        module: the stage's, already where it is to stay.
        make: makes the parts.
        naming: the names of the stage.
    """

    def __init__(self, module: nn.Module, make: MakeParts, *, naming: Naming) -> None:
        self.module = module
        self.history: list[AxisChanges] = []
        """What the changes made of the axes of parameters, by their names in the stage, in order."""
        self.naming = naming
        self.edits: list[Edit] = []
        """Parts that were attached, in order; their layers by global names."""
        self._make = make
        self.parts = make(Remembered(history=self.history))
        """Optimiser, weights and what else knows the parameters."""
        self.initial: dict[str, Tensor] = {}
        """The values that each parameter that learns began with, by global name, once somebody asks for them."""
        self._keeps_initial = False
        self.original = {name: tuple(value.shape) for name, value in self.named_tensors().items()}
        """Shapes before the first change, by global name."""

    def named_tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers under their global names."""
        names = self.naming.of(self.module)
        return {names[name]: value for name, value in self.module.state_dict().items()}

    def keep_initial(self) -> None:
        """From now on, keep the values that parameters begin with; as they are now, of those that are there."""
        self._keeps_initial = True
        learned = {name: p for name, p in self.parts.updater.parameters.items() if name not in self.initial}
        self.initial = self.initial | {name: parameter.detach().clone() for name, parameter in learned.items()}

    def hold(self, masks: Masks) -> None:
        """Keep what these masks leave out at 0 from now on; what comes back of it one day begins there.

        Raises:
            ValueError: see `Updater.hold`.
        """
        self.parts.updater.hold(masks)
        self.initial = {
            name: value.masked_fill(~masks[name].to(value.device), 0.0) if name in masks else value
            for name, value in self.initial.items()
        }

    def change(self, changes: Mapping[str, TensorChange]) -> None:
        """Change parameters and buffers, and all that follows them.

        Args:
            changes: by global name.

        Raises:
            ValueError, TypeError: something cannot follow. To have everything as it was, call it within `restoring`.
        """
        parts = self.parts
        local = {full: name for name, full in self.naming.of(self.module).items()}
        own = self.module.state_dict(keep_vars=True)
        values = {full: apply_change(own[local[full]], change) for full, change in changes.items()}
        state, ages, masks = parts.updater.followed(changes, values)
        initial = {
            name: follow_tensor(value, "average", changes[name], value=values[name]) if name in changes else value
            for name, value in self.initial.items()
        }
        axes = {local[full]: change.axes for full, change in changes.items() if change.axes}
        velocity = {
            name: map_tensor(value, axes[name], "value") if name in axes else value
            for name, value in parts.weights.state_dict().items()
        }
        fit_(self.module, {local[full]: value for full, value in values.items()})
        made = self._make(Remembered(ages=ages, masks=masks, history=self.history, pace=parts.updater.pace))
        made.updater.load_state_dict(state)
        made.weights.load_state_dict(velocity)
        made.curvature.load_state_dict(parts.curvature.followed())
        self.parts, self.initial = made, initial
        self.history.append(axes)

    def attach(self, edit: Edit, keyed: Keyed) -> str:
        """Attach a part, whose parameters begin to learn; the name within the stage of the new module.

        Args:
            edit: the part, its layer by a global name.
            keyed: draws initial values, by the global names of layers.

        Raises:
            ValueError, TypeError: it cannot be attached there. See `change`.
        """
        parts = self.parts
        state, ages, masks = parts.updater.followed({}, {})
        child = attach_(self.module, _renamed(edit, self.naming.local), lambda name: keyed(self.naming.full(name)))
        made = self._make(Remembered(ages=ages, masks=masks, history=self.history, pace=parts.updater.pace))
        made.updater.load_state_dict(state)
        made.weights.load_state_dict(parts.weights.state_dict())
        made.curvature.load_state_dict(parts.curvature.followed())
        self.parts, self.edits = made, [*self.edits, edit]
        self.history.append({})
        if self._keeps_initial:
            self.keep_initial()
        return child

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Have everything as it was if the block fails. Nothing writes into what there was, so references suffice."""
        parts, edits, initial, num_changes = self.parts, self.edits, self.initial, len(self.history)
        before = [
            (each, {name: copy.copy(value) if isinstance(value, dict) else value for name, value in vars(each).items()})
            for each in self.module.modules()
        ]
        try:
            yield
        except BaseException:
            for each, attributes in before:
                vars(each).clear()
                vars(each).update(attributes)
            self.parts, self.edits, self.initial = parts, edits, initial
            del self.history[num_changes:]
            raise

    def state_dict(self) -> dict[str, Any]:
        """Everything, under global names."""
        parts, names = self.parts, self.naming.of(self.module)
        return {
            "module": self.named_tensors(),
            "updater": parts.updater.state_dict(),
            "curvature": parts.curvature.state_dict(),
            "velocity": {names[name]: value for name, value in parts.weights.state_dict().items()},
            "ages": {name: [list(map(list, piece.box)) for piece in own] for name, own in parts.updater.ages.items()},
            "masks": parts.updater.masks,
            "edits": edits_to_json(self.edits),
            "original": {name: list(shape) for name, shape in self.original.items()},
            "initial": self.initial,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what `state` was taken from, whatever its structure was.

        Raises:
            CheckpointError: an event asks for initial values, and `state` has none.
        """
        if self._keeps_initial:
            self.initial = self._known_initial(state)
        self.edits = list(edits_from_json(state.get("edits", ())))
        local_edits = [_renamed(edit, self.naming.local) for edit in self.edits]
        apply_edits_(self.module, local_edits, lambda name: generator(0, name, 0))  # their values are loaded below
        own = {full: name for name, full in self.naming.of(self.module).items()}
        shapes = {name: value.shape for name, value in self.module.state_dict().items()}
        tensors = {own[full]: value for full, value in state["module"].items() if full in own}
        others = {name: value for name, value in tensors.items() if value.shape != shapes[name]}
        fit_(self.module, others)
        gates = {full: value for full, value in state["module"].items() if full not in own}
        fit_gates_(self.module, [*tensors, *filter(None, map(self.naming.local, gates))])
        if others or gates or self.edits or state.get("ages") or state.get("masks"):
            ages = {
                name: [Piece(name, tuple((start, stop) for start, stop in box)) for box in boxes]
                for name, boxes in state["ages"].items()
            }
            pace = self.parts.updater.pace
            self.parts = self._make(Remembered(ages=ages, masks=state["masks"], history=self.history, pace=pace))
        names = self.naming.of(self.module).items()
        self.module.load_state_dict({name: state["module"][full] for name, full in names})
        self.parts.updater.load_state_dict(state["updater"])
        velocity = state.get("velocity", {})  # not in the oldest checkpoints
        self.parts.weights.load_state_dict({name: velocity[full] for name, full in names if full in velocity})
        self.parts.curvature.load_state_dict(state.get("curvature", {}))  # nor is this

    def _known_initial(self, state: Mapping[str, Any]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = state.get("initial", {})  # not in the oldest checkpoints
        if self.initial and not found:
            raise CheckpointError(
                f"an event asks for the initial values of {', '.join(self.initial)}, but the checkpoint has none: no "
                "event asked for them when it was written. Resume with the events that the run was started with."
            )
        return dict(found)


def _renamed(edit: Edit, local: Callable[[str], str | None]) -> Edit:
    """The same part, its layer by the name within the stage."""
    full = edit.layer if isinstance(edit, Component) else edit.behind
    name = local(full)
    if name is None:
        raise ValueError(f"there is no layer {full!r} in this stage to attach a part to.")
    return replace(edit, layer=name) if isinstance(edit, Component) else replace(edit, behind=name)
