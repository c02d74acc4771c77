"""What has an event decided to do to a stage?

A plan is a value: made without changing anything, printed as one line for people, written down as JSON, and made again
elsewhere, by the same keys, to the same record. Tensors are in a record as their shapes and a digest of their bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dni.growth.alpha import Ramp, ramp_to_json
from dni.growth.part import Edit, edits_to_json
from dni.measures.active import Masks
from dni.pruning.rewiring import Rewiring, kept_after
from dni.structure.change import TensorChange, UnitChange

__all__ = ["MaskPlan", "PartPlan", "Plan", "TensorPlan", "UnitPlan"]


@dataclass(frozen=True, eq=False, kw_only=True)
class UnitPlan:
    """The units of some layers change."""

    summary: str
    """One line for people."""
    step: int
    """Of the event."""
    changes: tuple[UnitChange, ...]
    """One for each layer that changes, each of other units; may be none where only `state` goes on."""
    given: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """By layer, then by tensor: the values of its new units, of the tensor's shape with as many units as are new.
    Where there is none, `NewUnits` says how they begin."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """What the event is to find in `StageView.state` the next time, if it keeps something; also in the checkpoint."""

    def __str__(self) -> str:
        return self.summary

    def to_record(self) -> dict[str, Any]:
        """Plain numbers and names."""
        changes = [
            {
                "layer": change.layer,
                "origin": change.origin.to_json(),
                "alpha": change.new.alpha,
                "noise": change.new.noise,
                "ramp": None if change.new.ramp is None else repr(change.new.ramp),
            }
            for change in self.changes
        ]
        given = {layer: {name: _digest(value) for name, value in own.items()} for layer, own in self.given.items()}
        return {"summary": self.summary, "step": self.step, "changes": changes, "given": given}


@dataclass(frozen=True, eq=False, kw_only=True)
class TensorPlan:
    """Some tensors take over other values, or other shapes that concern no other layer."""

    summary: str
    """One line for people."""
    step: int
    """Of the event."""
    tensors: Mapping[str, TensorChange]
    """By global name; parameters and buffers."""

    def __str__(self) -> str:
        return self.summary

    def to_record(self) -> dict[str, Any]:
        """Plain numbers and names."""
        tensors = {
            name: {
                "axes": [
                    {"axis": axis.axis, "side": axis.side, "origin": axis.origin.to_json()} for axis in change.axes
                ],
                "value": None if change.value is None else _digest(change.value),
                "memory": change.memory,
                "anew": None if change.anew is None else _digest(change.anew),
            }
            for name, change in self.tensors.items()
        }
        return {"summary": self.summary, "step": self.step, "tensors": tensors}


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskPlan:
    """Some weights go or come without a change of shape: masks begin, change, or are held no longer."""

    summary: str
    """One line for people."""
    rewiring: Rewiring
    """What goes and what comes, all of which becomes 0 with its optimiser slots. A tensor that has no mask yet counts
    as all kept, and has one from now on."""
    lifted: tuple[str, ...] = ()
    """Tensors whose masks are held no longer; what was pruned of them learns again, from 0."""

    def __str__(self) -> str:
        return self.summary

    def after(self, kept: Masks, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The masks that are held from now on.

        Args:
            kept: those that are held now.
            parameters: by name; those of the plan at least.

        Raises:
            ValueError: the plan was made for other masks.
        """
        begun = {
            name: torch.ones_like(parameters[name], dtype=torch.bool, requires_grad=False)
            for name in self.rewiring.tensors
            if name not in kept
        }
        masks = kept_after(self.rewiring, {**kept, **begun})
        return {name: mask for name, mask in masks.items() if name not in self.lifted}

    def to_record(self) -> dict[str, Any]:
        """Plain numbers and names."""
        return {"summary": self.summary, "rewiring": self.rewiring.to_record(), "lifted": list(self.lifted)}


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """A whole part is attached to a layer of the stage; see `attach_`."""

    summary: str
    """One line for people."""
    step: int
    """Of the event."""
    edit: Edit
    """The part; the layer by global name."""
    ramp: Ramp | None
    """Opens the gates of the part (`Component.gates`), which begin shut; None: it has none."""

    def __str__(self) -> str:
        return self.summary

    def to_record(self) -> dict[str, Any]:
        """Plain numbers and names; all of the plan."""
        (edit,) = edits_to_json([self.edit])
        ramp = None if self.ramp is None else ramp_to_json(self.ramp)
        return {"summary": self.summary, "step": self.step, "edit": edit, "ramp": ramp}


Plan: TypeAlias = UnitPlan | TensorPlan | MaskPlan | PartPlan
"""To be told apart with `match`."""


def _digest(value: Tensor) -> dict[str, Any]:
    bits = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": sha256(bits).hexdigest()}
