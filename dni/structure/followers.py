"""How does a tensor follow when the axes of its parameter change?

Writing W' for the weight after a change, a kept function fixes what each tensor becomes. Units that compute an axis
(incoming weights, biases: the *producer* side) keep their values, W'[j] = W[s(j)], and each copy sees its share a of
the gradient, because what reads it is multiplied by that share. What reads the axis (the *consumer* side) is multiplied
by the share, W'[:, j] = a W[:, s(j)], and sees the old gradient, because its input is the same.

    side        value    gradient    second moment
    producer    1        a           a^2
    consumer    a        1           1
    predictor   a        a           a^2

A *predictor* says what the gradient at the units is, as the last layer of a synthesizer does: that of a copy is its
share of the old one, and the error of the prediction shrinks with it.

In Net2Net (Chen et al. 2015, arXiv 1511.05641) a = 1/n for n copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from dni.structure.origin import Origin, along

__all__ = ["AxisChange", "Kind", "Side", "check_changes", "fresh_entries", "map_tensor"]

Side: TypeAlias = Literal["producer", "consumer", "predictor"]
"""Whether a tensor computes the units of an axis, reads them, or predicts the gradient at them."""
Kind: TypeAlias = Literal["value", "gradient", "square", "copy"]
"""What a tensor holds: values as the parameter's, gradients, squares of gradients, or what does not depend on scale."""

_POWERS: Mapping[Side, Mapping[Kind, int]] = MappingProxyType(
    {
        "producer": {"value": 0, "gradient": 1, "square": 2, "copy": 0},
        "consumer": {"value": 1, "gradient": 0, "square": 0, "copy": 0},
        "predictor": {"value": 1, "gradient": 1, "square": 2, "copy": 0},
    }
)
"""The power of the share a by which a tensor is multiplied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisChange:
    """How one axis of a parameter changes."""

    axis: int
    origin: Origin
    """Of this axis: expanded, where a channel is several of its entries."""
    side: Side
    """Whether the parameter computes the units of the axis, reads them, or predicts the gradient at them."""

    def __post_init__(self) -> None:
        if self.side not in _POWERS:
            raise ValueError(
                f"a parameter is the 'producer', the 'consumer' or the 'predictor' of an axis, got {self.side!r}."
            )

    def of(self, kind: Kind) -> Origin:
        """The origin, scaled as a tensor of this kind is."""
        return self.origin.raised(_POWERS[self.side][kind])


def check_changes(shape: Sequence[int], changes: Sequence[AxisChange]) -> None:
    """Raise `ValueError` if these changes are not of different axes of a tensor of this shape."""
    axes = [change.origin.check_axis(shape, change.axis) for change in changes]
    if len(set(axes)) < len(axes):
        raise ValueError(
            f"each axis of a parameter changes once in an event, got changes of the axes {axes}. Compose two changes "
            "of one axis with Origin.then."
        )


def map_tensor(tensor: Tensor, changes: Sequence[AxisChange], kind: Kind, *, fresh: float = 0.0) -> Tensor:
    """What a tensor of the parameter's shape becomes; shares no memory with it.

    Args:
        tensor: of the parameter's shape before. Not changed.
        changes: one for each axis that changes.
        kind: what it holds.
        fresh: what new entries hold, and what a copy's scale leaves alone: an accumulator that began there keeps its
            beginning, f + a^2 (x - f). Entries that are not scaled are copied bit for bit.

    Raises:
        ValueError: the changes do not fit.
    """
    check_changes(tensor.shape, changes)
    tensor = tensor.detach()
    if not changes:
        return tensor.clone()
    old_shape, copied = tensor.shape, tensor
    for change in changes:
        copied = change.of("copy").apply(copied, change.axis)
    factor = _factor(old_shape, changes, kind, like=copied)
    if factor is not None:
        if fresh == 0:
            copied.mul_(factor)
        else:
            copied = torch.where(factor == 1, copied, fresh + (copied - fresh) * factor)
    if fresh != 0:
        copied.masked_fill_(fresh_entries(old_shape, changes, device=copied.device), fresh)
    return copied


def fresh_entries(shape: Sequence[int], changes: Sequence[AxisChange], *, device: torch.device | None = None) -> Tensor:
    """True where an entry was not there before; of a shape that broadcasts against the new one."""
    entries = torch.zeros([1] * len(shape), dtype=torch.bool, device=device)
    for change in changes:
        is_fresh = torch.zeros(change.origin.num_new, dtype=torch.bool, device=device)
        is_fresh[list(change.origin.fresh)] = True
        entries = entries | along(is_fresh, change.axis % len(shape), num_axes=len(shape))
    return entries


def _factor(shape: Sequence[int], changes: Sequence[AxisChange], kind: Kind, *, like: Tensor) -> Tensor | None:
    """By what the new entries are multiplied, to be broadcast; None for 1."""
    factor: Tensor | None = None
    for change in changes:
        origin = change.of(kind)
        if origin.is_scaled:
            if not like.is_floating_point():
                raise ValueError(f"only floating-point tensors can be scaled, got {like.dtype}. Map it as a copy.")
            scale = torch.tensor(origin.scale, dtype=torch.float64).to(like)
            own = along(scale, change.axis % len(shape), num_axes=len(shape))
            factor = own if factor is None else factor * own
    return factor
