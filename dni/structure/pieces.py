"""How do new units become a parameter of their own, and how do they join the weight again?

A piece of a weight shares its memory and has its own optimiser state and count. `split_in_pieces_` makes them after a
growth; `merge_pieces_` puts the weight itself in their place, once `dni.structure.maturity.may_merge` says so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adagrad, Optimizer

from dni.cadences.blocks import Piece
from dni.structure.maturity import age, correction_gap, may_merge, moment_ratio
from dni.structure.optimizer_state import check_state, fresh_of, group_of, slots_of

__all__ = ["merge_pieces_", "merge_states", "split_in_pieces_"]


def split_in_pieces_(
    optimizer: Optimizer, weight: nn.Parameter, pieces: Sequence[Piece], *, fresh: Collection[Piece] = ()
) -> list[nn.Parameter]:
    """Give the optimiser pieces of a weight in its place, each with its part of the state.

    Args:
        optimizer: holds the weight.
        weight: keeps its gradient, if it has one.
        pieces: cover the weight, each element once.
        fresh: those that begin anew, with no state and no count.

    Returns:
        The pieces' parameters, which share the weight's memory.

    Raises:
        ValueError: the pieces do not cover the weight, or a fused kernel would misread one that is strided.
        TypeError: the state cannot be split.
    """
    slots, group = slots_of(optimizer), group_of(optimizer, weight)
    check_state(optimizer, weight)
    _check_cover(weight, pieces)
    if group.get("fused") and (strided := [p.name for p in pieces if not p.is_contiguous(weight.shape)]):
        raise ValueError(
            f"fused optimisers ignore strides and would misread {', '.join(strided)} without an error. Cut along the "
            "first axis, or use fused=False."
        )
    held = optimizer.state.pop(weight, {})
    parameters = [nn.Parameter(piece.of(weight.detach())) for piece in pieces]
    for piece, parameter in zip(pieces, parameters, strict=True):
        state: dict[str, Any] = {}
        if piece not in fresh:
            state = {
                name: _own(value) if name not in slots or value is None else _own(piece.of(value))
                for name, value in held.items()
            }
        elif isinstance(optimizer, Adagrad):  # it makes its state once, when it is made itself
            initial = fresh_of(slots["sum"], group)
            state = {"step": torch.zeros_like(held["step"]), "sum": torch.full_like(parameter.detach(), initial)}
        if state:
            optimizer.state[parameter] = state
    own = group["params"]
    position = next(index for index, other in enumerate(own) if other is weight)
    own[position : position + 1] = parameters
    return parameters


def merge_pieces_(
    optimizer: Optimizer,
    weight: nn.Parameter,
    pieces: Sequence[tuple[Piece, nn.Parameter]],
    *,
    tolerance: float = 1e-3,
) -> None:
    """Put a weight in the place of its pieces, with their states as one (see `merge_states`).

    It takes the place of the first piece, whose group it joins; a group that is left empty stays.

    Raises:
        ValueError: the pieces are not all of the weight's memory, have gradients that wait, are in groups with other
            options, or their bias corrections differ by more than `tolerance`.
        TypeError: the state cannot be merged.
    """
    _check_cover(weight, [piece for piece, _ in pieces])
    parameters = [parameter for _, parameter in pieces]
    for piece, parameter in pieces:
        _check_piece(weight, piece, parameter)
    groups = [group_of(optimizer, parameter) for parameter in parameters]
    options = [{name: value for name, value in group.items() if name != "params"} for group in groups]
    if other := [piece.name for (piece, _), own in zip(pieces, options, strict=True) if own != options[0]]:
        raise ValueError(
            f"pieces must be trained with the same options to be merged, but {', '.join(other)} and "
            f"{pieces[0][0].name} are in groups with different ones. Set them alike first."
        )
    if not may_merge(optimizer, parameters, tolerance=tolerance):
        raise ValueError(
            f"{', '.join(piece.name for piece, _ in pieces)} may be merged when their bias corrections differ by at "
            f"most {tolerance}, but they differ by {correction_gap(optimizer, parameters):.3g}. Ask may_merge first."
        )
    state = merge_states(optimizer, pieces, like=weight)
    _replace(groups, parameters, weight)
    for parameter in parameters:
        optimizer.state.pop(parameter, None)
    if state:
        optimizer.state[weight] = state


def merge_states(optimizer: Optimizer, pieces: Sequence[tuple[Piece, nn.Parameter]], *, like: Tensor) -> dict[str, Any]:
    """The state of a whole weight, from those of its pieces.

    Counts are those of the oldest piece, whose moments are taken over bit for bit. The moments of a younger one are
    scaled to be the same *after* bias correction, m (1 - beta1^T) / (1 - beta1^t) and v (1 - beta2^T) / (1 - beta2^t),
    so the merge itself moves nothing. From then on an update differs, relative, from one with a count per element by
    the order of the difference of corrections.

    Args:
        optimizer: holds the pieces.
        pieces: each with the parameter that shares its memory; together they cover the weight once.
        like: the weight.

    Returns:
        A state as the optimiser keeps it, which shares no memory with those of the pieces; empty if none has one.

    Raises:
        TypeError, ValueError: a piece's state is not known, or does not fit.
    """
    slots = slots_of(optimizer)
    for _, parameter in pieces:
        check_state(optimizer, parameter)
    states = [optimizer.state.get(parameter, {}) for _, parameter in pieces]
    oldest = max(states, key=age)
    group = group_of(optimizer, pieces[0][1])
    merged = {name: None if name in slots else _own(value) for name, value in oldest.items()}
    for name in slots:
        tensors = [state.get(name) for state in states]
        known = [tensor for tensor in tensors if tensor is not None]
        if not known:
            continue
        if slots[name].kind == "value":
            whole = like.detach().to(known[0]).clone()
        else:
            whole = torch.full_like(like.detach(), fresh_of(slots[name], group), dtype=known[0].dtype)
        for (piece, _), state, tensor in zip(pieces, states, tensors, strict=True):
            if tensor is not None:
                ratio = moment_ratio(name, optimizer, group, young=state, old=oldest)
                piece.of(whole).copy_(tensor if ratio == 1 else tensor * ratio)
        merged[name] = whole
    return merged


def _replace(groups: Sequence[dict[str, Any]], parameters: Sequence[nn.Parameter], weight: nn.Parameter) -> None:
    pieces = {id(parameter) for parameter in parameters}
    first = next(index for index, other in enumerate(groups[0]["params"]) if id(other) in pieces)
    groups[0]["params"][first] = weight
    for group in groups:
        group["params"][:] = [other for other in group["params"] if id(other) not in pieces]


def _own(value: Any) -> Any:
    """A tensor of its own, dense; a number as it is."""
    return value.clone(memory_format=torch.contiguous_format) if isinstance(value, Tensor) else value


def _check_cover(weight: Tensor, pieces: Sequence[Piece]) -> None:
    count = torch.zeros(weight.shape, dtype=torch.int32)
    for piece in pieces:
        piece.of(count).add_(1)
    if not bool((count == 1).all()):
        raise ValueError(
            f"the pieces of a weight must hold each of its elements once, but of the {count.numel()} of "
            f"{tuple(weight.shape)}, {', '.join(piece.name for piece in pieces)} leave {int((count == 0).sum())} out "
            f"and name {int((count > 1).sum())} more than once."
        )


def _check_piece(weight: Tensor, piece: Piece, parameter: nn.Parameter) -> None:
    view = piece.of(weight.detach())
    if view.shape != parameter.shape or view.data_ptr() != parameter.data_ptr() or view.stride() != parameter.stride():
        raise ValueError(
            f"{piece.name} must share the memory of its weight {tuple(weight.shape)}, got a parameter "
            f"{tuple(parameter.shape)} elsewhere. Make pieces with split_in_pieces_, after the weight is in its place."
        )
    if parameter.grad is not None:
        raise ValueError(f"{piece.name} has a gradient that waits. Apply or drop it before the pieces are merged.")
