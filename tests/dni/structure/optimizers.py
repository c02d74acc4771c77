"""Which optimisers do the tests of changing structure try, and how does a stage train with one?

Their eps is 0 in effect: it would tell copies apart.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from dni import (
    NEW,
    AxisChange,
    Memory,
    Piece,
    PieceState,
    TensorChange,
    apply_change,
    follow_pieces,
    merge_mature,
)

__all__ = ["OPTIMIZERS", "Make", "PerElementAdam", "Pieced", "stepped"]

Make = Callable[[list[nn.Parameter]], Optimizer]
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "SGD": partial(optim.SGD, lr=0.1),
    "momentum": partial(optim.SGD, lr=0.1, momentum=0.9),
    "dampened": partial(optim.SGD, lr=0.1, momentum=0.9, dampening=0.1),
    "Adam": partial(optim.Adam, lr=0.1, eps=1e-30),
    "amsgrad": partial(optim.Adam, lr=0.1, eps=1e-30, amsgrad=True),
    "AdamW": partial(optim.AdamW, lr=0.1, eps=1e-30),
    "NAdam": partial(optim.NAdam, lr=0.1, eps=1e-30),
    "RAdam": partial(optim.RAdam, lr=0.1, eps=1e-30),
    "Adamax": partial(optim.Adamax, lr=0.1, eps=1e-30),
    "Adagrad": partial(optim.Adagrad, lr=0.1, eps=1e-30, lr_decay=0.1, initial_accumulator_value=0.1),
    "RMSprop": partial(optim.RMSprop, lr=0.1, eps=1e-30, momentum=0.9, centered=True),
    "Adadelta": partial(optim.Adadelta, lr=0.1, eps=1e-30),
    "ASGD": partial(optim.ASGD, lr=0.1),
    "Rprop": partial(optim.Rprop, lr=0.1),
    "Muon": partial(optim.Muon, lr=0.1),
}


class Pieced:
    """A parameter in an optimiser, as one piece or several that share its memory, through changes of its structure."""

    def __init__(self, make: Make, value: Tensor) -> None:
        self.make = make
        self._load(value, [PieceState(piece=Piece("w"), state={})])

    @property
    def pieces(self) -> list[PieceState]:
        return [
            PieceState(piece=piece, state=self.optimizer.state.get(leaf, {}))
            for piece, leaf in zip(self.names, self.leaves, strict=True)
        ]

    @property
    def boxes(self) -> list[tuple[tuple[int, int], ...]]:
        return [piece.box for piece in self.names]

    def step(self, *gradients: Tensor) -> None:
        for gradient in gradients:
            for piece, leaf in zip(self.names, self.leaves, strict=True):
                leaf.grad = piece.of(gradient)
            self.optimizer.step()

    def follow(self, change: TensorChange) -> None:
        """Go on with another structure; what is planned with must stay as it was, and nothing of it be shared."""
        before, group = self.pieces, self.optimizer.param_groups[0]
        value = apply_change(self.value, change)
        kept = copy.deepcopy([dict(own.state) for own in before])
        pieces = follow_pieces(
            before, change, shape=tuple(self.value.shape), value=value, optimizer=self.optimizer, group=group
        )
        for own, state in zip(before, kept, strict=True):
            assert own.state.keys() == state.keys()
            assert all(torch.equal(torch.as_tensor(own.state[key]), torch.as_tensor(state[key])) for key in state)
        _check_own(pieces, [*before, PieceState(piece=Piece("w"), state={"value": value})])
        self._load(value, pieces)

    def set_value(self, change: TensorChange) -> TensorChange:
        """The change with values for new entries."""
        drawn = torch.randn_like(apply_change(self.value, change))
        fresh = apply_change(torch.ones_like(self.value), change) == 0
        return replace(change, value=torch.where(fresh, drawn, apply_change(self.value, change)))

    def merge(self, tolerance: float) -> bool:
        """Whether the parameter is one piece again."""
        before, group = self.pieces, self.optimizer.param_groups[0]
        pieces = merge_mature(before, value=self.value, optimizer=self.optimizer, group=group, tolerance=tolerance)
        if len(pieces) < len(before):
            _check_own(pieces, before)
            self._load(self.value, pieces)
        else:
            assert all(own is other for own, other in zip(pieces, before, strict=True))
        return len(pieces) == 1

    def _load(self, value: Tensor, pieces: list[PieceState]) -> None:
        self.value = value.detach().clone()
        self.names = [own.piece for own in pieces]
        self.leaves = [nn.Parameter(own.piece.of(self.value)) for own in pieces]
        self.optimizer = self.make(self.leaves)
        for leaf, own in zip(self.leaves, pieces, strict=True):
            if own.state:
                self.optimizer.state[leaf] = copy.deepcopy(dict(own.state))


class PerElementAdam:
    """Adam (Kingma & Ba 2014) with one count per element, through changes, in plain Python."""

    def __init__(self, value: Tensor) -> None:
        self.rows = [[{"w": float(w), "m": 0.0, "v": 0.0, "t": 0.0} for w in row] for row in value]

    @property
    def value(self) -> Tensor:
        return torch.tensor([[own["w"] for own in row] for row in self.rows], dtype=torch.float64)

    def step(self, gradient: Tensor, *, lr: float, betas: tuple[float, float]) -> None:
        for row, gradients in zip(self.rows, gradient.tolist(), strict=True):
            for own, g in zip(row, gradients, strict=True):
                own["t"] += 1
                own["m"] += (1 - betas[0]) * (g - own["m"])
                own["v"] = betas[1] * own["v"] + (1 - betas[1]) * g * g
                m, v = own["m"] / (1 - betas[0] ** own["t"]), own["v"] / (1 - betas[1] ** own["t"])
                own["w"] -= lr * m / (v**0.5 + 1e-8)

    def follow(self, axes: tuple[AxisChange, AxisChange], memory: Memory, value: Tensor) -> None:
        first, second = (change.origin for change in axes)
        rows: list[list[dict[str, float]]] = []
        for i, above in enumerate(first.sources):
            rows.append([])
            for j, left in enumerate(second.sources):
                own = {"m": 0.0, "v": 0.0, "t": 0.0} if NEW in (above, left) else dict(self.rows[above][left])
                share = first.scale[i] if axes[0].side == "producer" else 1.0
                share *= second.scale[j] if axes[1].side == "producer" else 1.0
                own |= {"w": float(value[i, j]), "m": own["m"] * share, "v": own["v"] * share**2}
                if memory != "keep":
                    own |= {"m": 0.0, "v": 0.0}
                if memory == "zero moments and step":
                    own["t"] = 0.0
                rows[-1].append(own)
        self.rows = rows


def stepped(optimizer: Optimizer, parameter: nn.Parameter, gradients: list[Tensor]) -> None:
    """One step for each gradient."""
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        parameter.grad = None


def _check_own(pieces: list[PieceState], before: list[PieceState]) -> None:
    def places(states: list[PieceState]) -> list[int]:
        tensors = [value for own in states for value in own.state.values() if isinstance(value, Tensor)]
        return [tensor.untyped_storage().data_ptr() for tensor in tensors]

    own = places(pieces)
    assert len(set(own)) == len(own), "each has memory of its own"
    assert not set(own) & set(places(before))
    tensors = [value for one in pieces for value in one.state.values() if isinstance(value, Tensor)]
    assert all(tensor.is_contiguous() for tensor in tensors)
