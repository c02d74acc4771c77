"""What is timed: one network, learned as a whole by hand, and in blocks by the package."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dni import BlockCadence, Pace, Periodic, Quadrants, Rows, split_in_blocks
from pipeline.learners.updater import OptimizerFactory, Updater

__all__ = ["CUTS", "OPTIMIZERS", "ByHand", "InBlocks", "network"]

OPTIMIZERS: Mapping[str, OptimizerFactory] = {
    "SGD, momentum": partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
    "Adam": partial(torch.optim.Adam, lr=1e-4),
}


@dataclass(frozen=True)
class Cut:
    """How each weight matrix is divided."""

    chosen: Callable[[str], BlockCadence]
    """By the name of the weight."""


def _rows(name: str, *, periods: Sequence[int]) -> BlockCadence:
    return BlockCadence(Rows(name, len(periods)), tuple(map(Periodic, periods)))


def _quadrants(name: str, *, periods: Sequence[int]) -> BlockCadence:
    return BlockCadence(Quadrants(name), tuple(map(Periodic, periods)))


CUTS: Mapping[str, Cut] = {
    "no blocks": Cut(partial(_rows, periods=())),
    "4 row blocks, every step": Cut(partial(_rows, periods=(1, 1, 1, 1))),
    "4 row blocks, periods 1, 2, 4, 8": Cut(partial(_rows, periods=(1, 2, 4, 8))),
    "quadrants, every step": Cut(partial(_quadrants, periods=(1, 1, 1, 1))),
    "quadrants, periods 1, 2, 4, 8": Cut(partial(_quadrants, periods=(1, 2, 4, 8))),
}


def network(width: int, *, depth: int = 3) -> nn.Sequential:
    """`depth` square layers and a small last one, the same each time."""
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


class _Contender:
    """A network with its data. Final classes say what an update is."""

    def __init__(self, width: int, num_samples: int) -> None:
        self.module = network(width)
        drawn = torch.Generator().manual_seed(1)
        self.x = torch.randn(num_samples, width, generator=drawn)
        self.target = torch.randint(10, (num_samples,), generator=drawn)
        self._gradients: list[Tensor] = []

    def pull_back(self) -> None:
        """Forward and backward of the summed loss."""
        nn.functional.cross_entropy(self.module(self.x), self.target, reduction="sum").backward()

    def set_gradients(self) -> None:
        """Put the same gradients into `.grad` again, without a backward."""
        if not self._gradients:
            self.pull_back()
            self._gradients = [copy.deepcopy(p.grad) for p in self.module.parameters() if p.grad is not None]
        for parameter, gradient in zip(self.module.parameters(), self._gradients, strict=True):
            parameter.grad = gradient.clone()


class ByHand(_Contender):
    """The plain loop: divide, step, clear."""

    def __init__(self, optimizer: OptimizerFactory, *, width: int, num_samples: int) -> None:
        super().__init__(width, num_samples)
        self._parameters = list(self.module.parameters())
        self._optimizer = optimizer(self._parameters)

    def update(self, step: int) -> None:
        """What follows a backward."""
        torch._foreach_div_([p.grad for p in self._parameters if p.grad is not None], len(self.x))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


class InBlocks(_Contender):
    """The updater of a stage, whose weight matrices are cut."""

    def __init__(self, optimizer: OptimizerFactory, cut: str, *, width: int, num_samples: int) -> None:
        super().__init__(width, num_samples)
        parameters = dict(self.module.named_parameters())
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        wide = [name for name, shape in shapes.items() if shape == (width, width)]
        cutting = cut != "no blocks"
        paired = [pair for name in wide if cutting for pair in CUTS[cut].chosen(name).pair(shapes)]
        rest = (split_in_blocks(shapes, [block for block, _ in paired]), Periodic())
        whole = [*paired, rest]
        self._updater = Updater(
            parameters,
            optimizer=optimizer,
            schedule=lambda step: 1.0,
            blocks=[block for block, _ in whole] if cutting else (),
            pace=Pace({block.name: cadence for block, cadence in whole}),
        )

    def update(self, step: int) -> None:
        """What follows a backward."""
        due = self._updater.due(step)
        self._updater.accumulate(len(self.x))
        if due:
            self._updater.apply_due(step)
