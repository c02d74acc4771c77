"""Data that knows its own place, as torchdata's StatefulDataLoader does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class Remembering:
    """Gives batches in a new order each epoch, and can be put back to where it was.

    Its iterators share its place, so that one that was abandoned has moved it.

    Args:
        batches: what to give; a number stands for as many batches of one number each.
        noise: add a draw from the process-wide generator.
        epochs: how often it can be read.
    """

    def __init__(
        self, batches: int | list[tuple[Tensor, Tensor]], *, noise: bool = False, epochs: float = math.inf
    ) -> None:
        self.batches: list[Any] = (
            [(torch.tensor(float(i)), None) for i in range(batches)] if isinstance(batches, int) else batches
        )
        self.noise = noise
        self.epochs = epochs
        self.place = {"epoch": 0, "given": 0}

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        place = self.place
        if place["epoch"] >= self.epochs:
            return
        order = torch.randperm(len(self.batches), generator=torch.Generator().manual_seed(place["epoch"])).tolist()
        while place["given"] < len(self.batches):
            x, target = self.batches[order[place["given"]]]
            place["given"] += 1
            yield (x + torch.rand(()) if self.noise else x), target
        place["epoch"] += 1
        place["given"] = 0

    def state_dict(self) -> dict[str, Any]:
        """The epoch, and the batches it has given of it."""
        return self.place

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.place = state
