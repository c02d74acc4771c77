"""Which connections of a network go, and which come, at one event?

A plan: made without changing anything, to be printed, logged, applied, and applied again elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Rewiring", "TensorRewiring", "kept_after"]


@dataclass(frozen=True, eq=False, kw_only=True)
class TensorRewiring:
    """What goes and what comes in one tensor, n numbers."""

    dropped: Tensor
    """int64, places in the tensor laid flat, ascending."""
    grown: Tensor
    """int64, likewise; none of them dropped, or kept before."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Rewiring:
    """What goes and what comes, by the name of the tensor."""

    rule: str
    """Who planned it, as `RigL`."""
    step: int
    """Of the event."""
    tensors: Mapping[str, TensorRewiring]
    """Those that change, or might have."""

    def __str__(self) -> str:
        parts = [
            f"{name} -{change.dropped.numel()} +{change.grown.numel()}"
            for name, change in self.tensors.items()
            if change.dropped.numel() or change.grown.numel()
        ]
        return f"{self.rule} at step {self.step}: {', '.join(parts) or 'nothing changes'}"

    def to_record(self) -> dict[str, Any]:
        """Plain numbers and names, as JSON has them; two plans are the same if their records are."""
        tensors = {
            name: {"dropped": change.dropped.tolist(), "grown": change.grown.tolist()}
            for name, change in self.tensors.items()
        }
        return {"rule": self.rule, "step": self.step, "tensors": tensors}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Rewiring:
        """The plan that `to_record` was taken from."""
        tensors = {
            name: TensorRewiring(
                dropped=torch.tensor(change["dropped"], dtype=torch.int64),
                grown=torch.tensor(change["grown"], dtype=torch.int64),
            )
            for name, change in record["tensors"].items()
        }
        return cls(rule=record["rule"], step=record["step"], tensors=tensors)


def kept_after(rewiring: Rewiring, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks after a plan: new tensors for what it changes, and the others as they are.

    Args:
        rewiring: the plan.
        kept: what there is before it, bool by name.

    Raises:
        ValueError: the plan was made for other masks: it names a tensor that has none, a place outside of it, drops
            what is not there, grows what is, or leaves nothing of a tensor.
    """
    after = dict(kept)
    for name, change in rewiring.tensors.items():
        if name not in kept:
            raise ValueError(f"{rewiring.rule} changes {name}, which has no mask; masks are of {', '.join(kept)}.")
        flat = kept[name].flatten().clone()
        dropped, grown = change.dropped.to(flat.device), change.grown.to(flat.device)
        for places, before, what in ((dropped, True, "drops"), (grown, False, "grows")):
            fits = not places.numel() or bool(((places >= 0) & (places < flat.numel())).all())
            if not fits or bool((flat[places] != before).any()):
                raise ValueError(
                    f"{rewiring} {what} places of {name} that are outside of its {flat.numel()} numbers, or have been "
                    f"{'dropped' if before else 'there'} already. Apply a plan to the masks it was made for, once."
                )
        flat[dropped] = False
        flat[grown] = True
        if not bool(flat.any()):
            raise ValueError(f"{rewiring} would leave nothing of {name}. Lower its share, or leave {name} out.")
        after[name] = flat.view(kept[name].shape)
    return after
