"""What does an optimiser know about each part of a parameter, before and after a change?

A parameter is in its optimiser as one piece, or, while some of its entries are younger than others, as several: boxes
that share its memory, each with a state and a count of its own (why: `dni.structure.maturity`). A change makes other
pieces of them; once their counts no longer matter, they are one again. Nothing here changes what it is given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dni.cadences.blocks import Piece
from dni.structure.boxes import check_cover, follow_boxes
from dni.structure.change import TensorChange
from dni.structure.followers import check_changes, map_tensor
from dni.structure.maturity import age, correction_gap, moment_ratio
from dni.structure.optimizer_state import Slot, State, check_memory, check_state, fresh_of, fresh_state, slots_of

__all__ = ["PieceState", "follow_pieces", "merge_mature"]

_NEW = 0
"""The age of entries that have had no update."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PieceState:
    """A piece of a parameter, and what the optimiser keeps for it."""

    piece: Piece
    state: State
    """As in `optimizer.state`, of the piece's shape; empty: no update yet. (Adagrad's is never empty.)"""


def follow_pieces(
    pieces: Sequence[PieceState],
    change: TensorChange,
    *,
    shape: tuple[int, ...],
    value: Tensor,
    optimizer: Optimizer,
    group: Mapping[str, Any],
) -> list[PieceState]:
    """The pieces of a parameter after a change.

    Entries that were there keep their state, scaled as copies need it (`dni.structure.followers`), or what
    `change.memory` leaves of it, of all of them or of `change.anew`. New ones have none, so they are pieces of their
    own, with a count of their own; copies are as old as their source. Pieces of one age are joined to fewer boxes; if
    nothing depends on the counts (SGD without dampening, RMSprop, ...; or no piece has had an update), to the whole
    parameter, in which new entries begin as the optimiser begins.

    Boxes are few while new entries lie together. Where they are scattered over rows and columns of one weight, they cut
    it to bits: 51 of 512 units anew on both axes are 3,936 pieces, whose update takes 150 ms instead of 2 (on one axis
    97 pieces, 4 ms instead of 1; Adam, one core).

    Args:
        pieces: hold each element of the parameter once, before the change.
        change: of the parameter; its axes, its memory and what begins anew count here.
        shape: of the parameter before.
        value: of the parameter after.
        optimizer: of whatever parameters; of the kind that the states are of.
        group: the options that the pieces are trained with.

    Returns:
        Pieces that hold each element once, in the order of their first elements. All tensors are dense and their own.

    Raises:
        ValueError: pieces, states, change and value do not fit, or a fused kernel would misread a piece.
        TypeError: the optimiser's state cannot be mapped, or the parameter is complex.
    """
    name = _check(pieces, shape=shape, optimizer=optimizer)
    _check_change(name, change, shape=shape, value=value)
    if change.memory == "zero moments and step":
        pieces = [PieceState(piece=own.piece, state={}) for own in pieces]
    slots, fresh = slots_of(optimizer), fresh_state(optimizer, group, value)
    labels, examples = _by_age([own.state or fresh for own in pieces], slots=slots, fresh=fresh)
    labelled = [(own.piece.box, label) for own, label in zip(pieces, labels, strict=True)]
    boxes = follow_boxes(labelled, change.axes, parameter=name, shape=shape, new=_NEW)
    present = {label: examples[label] for _, label in boxes}
    mapped = {
        key: _follow_slot(key, slot, pieces, change, shape=shape, value=value, group=group)
        for key, slot in slots.items()
        if any(state.get(key) is not None for state in present.values())
    }
    if correction_gap(optimizer, group, present.values()) == 0:
        states = {Piece(name): _counts(max(present.values(), key=age), slots) | mapped}
    else:
        states = {Piece(name, box): _cut(mapped, Piece(name, box), present[label]) for box, label in boxes}
    _check_fused(states, value=value, group=group)
    return [PieceState(piece=piece, state=state) for piece, state in states.items()]


def merge_mature(
    pieces: Sequence[PieceState],
    *,
    value: Tensor,
    optimizer: Optimizer,
    group: Mapping[str, Any],
    tolerance: float = 1e-3,
) -> list[PieceState]:
    """The pieces of a parameter as one, once what follows from their counts differs by `tolerance` at most.

    With Adam's beta2 = 0.999, new units of an old weight are there after ln(tolerance) / ln(beta2) updates: 6,905 for
    1e-3, 4,603 for 1e-2. Counts are then those of the oldest piece, whose moments are taken over bit for bit. The
    moments of a younger one are scaled to be the same *after* bias correction, m (1 - beta1^T) / (1 - beta1^t) and
    v (1 - beta2^T) / (1 - beta2^t), so the merge itself moves nothing. From then on an update differs, relative, from
    one with a count per element by the order of the difference of corrections.

    Args:
        pieces: hold each element of the parameter once.
        value: the parameter.
        optimizer: of whatever parameters; of the kind that the states are of.
        group: the options that the pieces are trained with. Merge only what is trained with the same.
        tolerance: see `correction_gap`.

    Returns:
        One whole piece whose state is its own; or, where they are not mature or there is only one, the pieces given.

    Raises:
        ValueError: the tolerance is not in [0, 1), or pieces, states and value do not fit.
        TypeError: the optimiser's state is not known.
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"the tolerance of a bias correction must lie in [0, 1), got {tolerance}.")
    if [own.piece.box for own in pieces] == [()] or (
        correction_gap(optimizer, group, [own.state for own in pieces]) > tolerance
    ):
        return list(pieces)
    name = _check(pieces, shape=tuple(value.shape), optimizer=optimizer)
    check_cover([own.piece.box for own in pieces], parameter=name, shape=value.shape)
    merged = {Piece(name): _merge(pieces, value=value, optimizer=optimizer, group=group)}
    _check_fused(merged, value=value, group=group)
    return [PieceState(piece=piece, state=state) for piece, state in merged.items()]


def _merge(
    pieces: Sequence[PieceState], *, value: Tensor, optimizer: Optimizer, group: Mapping[str, Any]
) -> dict[str, Any]:
    oldest, slots = max((own.state for own in pieces), key=age), slots_of(optimizer)
    merged = _counts(oldest, slots)
    for key, slot in slots.items():
        known = [own for own in pieces if own.state.get(key) is not None]
        if not known:
            continue
        whole = _begin(slot, value, group, like=known[0].state[key])
        for own in known:
            ratio = moment_ratio(key, optimizer, group, young=own.state, old=oldest)
            tensor = own.state[key]
            own.piece.of(whole).copy_(tensor if ratio == 1 else tensor * ratio)
        merged[key] = whole
    return merged


def _by_age(states: Iterable[State], *, slots: Collection[str], fresh: State) -> tuple[list[int], list[State]]:
    """The age of each state, numbered from `_NEW`, that of a fresh one; and a state of each age."""
    ages, examples, labels = {_age(fresh, slots): _NEW}, [fresh], []
    for state in states:
        label = ages.setdefault(_age(state, slots), len(examples))
        if label == len(examples):
            examples.append(state)
        labels.append(label)
    return labels, examples


def _age(state: State, slots: Collection[str]) -> tuple[tuple[str, float], ...]:
    """What two states of one age share: the slots that are there, and the counts."""
    known = {key: value for key, value in state.items() if value is not None}
    return tuple(sorted((key, 0.0 if key in slots else float(value)) for key, value in known.items()))


def _follow_slot(
    key: str,
    slot: Slot,
    pieces: Sequence[PieceState],
    change: TensorChange,
    *,
    shape: tuple[int, ...],
    value: Tensor,
    group: Mapping[str, Any],
) -> Tensor:
    """A slot of the whole parameter after a change, from those of its pieces; what has none begins anew."""
    known = [own for own in pieces if own.state.get(key) is not None]
    like = known[0].state[key] if known else value
    forgotten = change.anew if change.memory == "zero moments" else None
    if not known or (change.memory == "zero moments" and forgotten is None):
        return _begin(slot, value, group, like=like)
    start = fresh_of(slot, group)
    mapped = map_tensor(_gather(key, known, shape, start), change.axes, slot.kind, fresh=start).contiguous()
    if slot.kind == "value":
        missing = torch.ones(shape, dtype=torch.bool, device=like.device)
        for own in known:
            own.piece.of(missing).fill_(False)
        missing = map_tensor(missing, change.axes, "copy", fresh=1)
        mapped = torch.where(missing, value.detach().to(mapped), mapped)
    if forgotten is not None:
        mapped = torch.where(forgotten.to(mapped.device), _begin(slot, value, group, like=like), mapped)
    return mapped


def _gather(key: str, known: Sequence[PieceState], shape: tuple[int, ...], start: float) -> Tensor:
    """A slot of the whole parameter before a change."""
    first: Tensor = known[0].state[key]
    if not known[0].piece.box:
        return first
    whole = first.new_full(shape, start)
    for own in known:
        own.piece.of(whole).copy_(own.state[key])
    return whole


def _begin(slot: Slot, value: Tensor, group: Mapping[str, Any], *, like: Tensor) -> Tensor:
    """A slot of the whole parameter with which nothing has happened yet, of the type and place of another."""
    if slot.kind == "value":
        return value.detach().to(like).clone(memory_format=torch.contiguous_format)
    return like.new_full(value.shape, fresh_of(slot, group))


def _cut(mapped: Mapping[str, Tensor], piece: Piece, example: State) -> dict[str, Any]:
    """The state of a piece, which has the counts and the slots of one of its age."""
    own = {key: piece.of(whole) for key, whole in mapped.items() if example.get(key) is not None}
    dense = {key: part.clone(memory_format=torch.contiguous_format) for key, part in own.items()}
    return _counts(example, mapped) | dense


def _counts(state: State, slots: Collection[str]) -> dict[str, Any]:
    """All but the slots."""
    return {
        key: value.clone() if isinstance(value, Tensor) else value
        for key, value in state.items()
        if key not in slots and value is not None
    }


def _check(pieces: Sequence[PieceState], *, shape: tuple[int, ...], optimizer: Optimizer) -> str:
    """Raise if the pieces are not of one parameter, with states as the optimiser keeps them; its name."""
    names = sorted({own.piece.parameter for own in pieces})
    if len(names) != 1:
        raise ValueError(
            f"the pieces must be of one parameter, got {', '.join(names) or 'none'}. Take them one by one."
        )
    slots = slots_of(optimizer)
    meta = torch.empty(shape, device="meta")
    for own in pieces:
        check_state(optimizer, own.state, shape=tuple(own.piece.of(meta).shape), name=own.piece.name)
        for key, value in own.state.items():
            is_number = isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
            if key not in slots and value is not None and not is_number:
                raise TypeError(
                    f"{type(optimizer).__name__} keeps {key!r} for {own.piece.name}, which is neither one of "
                    f"{', '.join(slots)} nor one number for all of its elements, so it is not known how it follows a "
                    "change. Change the structure under another optimiser."
                )
    return names[0]


def _check_change(name: str, change: TensorChange, *, shape: tuple[int, ...], value: Tensor) -> None:
    check_memory(change.memory)
    if torch.is_complex(value):
        raise TypeError(f"{name} is complex, and its structure cannot change. Keep real and imaginary parts apart.")
    try:
        check_changes(shape, change.axes)
    except ValueError as error:
        raise ValueError(f"{name} cannot change as planned: {error}") from error
    after = list(shape)
    for own in change.axes:
        after[own.axis] = own.origin.num_new
    if tuple(after) != tuple(value.shape):
        raise ValueError(
            f"{name} {shape} becomes {tuple(after)} by its changes, but its new value is {tuple(value.shape)}. Take "
            "both from the same plan."
        )
    if change.anew is None:
        return
    if change.anew.shape != value.shape:
        raise ValueError(
            f"what begins anew of {name} must have its new shape {tuple(value.shape)}, got {tuple(change.anew.shape)}. "
            "Take both from the same plan."
        )
    if change.memory == "zero moments and step" and not bool(change.anew.all()):
        raise ValueError(
            f"a tensor has one count of its updates, so the step of {name} can begin anew only with all of it, but "
            f"{int(change.anew.sum())} of {change.anew.numel()} entries do. Use the memory 'zero moments'."
        )


def _check_fused(pieces: Iterable[Piece], *, value: Tensor, group: Mapping[str, Any]) -> None:
    if group.get("fused") and (strided := [own.name for own in pieces if not own.of(value).is_contiguous()]):
        raise ValueError(
            f"fused optimisers ignore strides and would misread {', '.join(strided)} without an error. Let new entries "
            "follow the old ones along the first axis, or use fused=False."
        )
