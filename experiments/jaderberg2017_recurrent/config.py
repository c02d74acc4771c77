"""Which runs stand beside the table of recurrent networks in Jaderberg et al. 2017?

A row is named task_method_horizon: `copy_dni_3` is Copy with a synthetic gradient after every 3 steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from dni import Members, RecurrentDNI
from experiments.jaderberg2017_recurrent.truncated import TruncatedBPTT

__all__ = [
    "CHARACTERS",
    "COPYING",
    "ROWS",
    "Characters",
    "Copying",
    "Learner",
    "Method",
    "Model",
    "Row",
    "TaskName",
    "make_learner",
]

Method: TypeAlias = Literal["bptt", "dni", "aux"]
"""bptt: truncated. dni: a synthetic gradient where it is truncated. aux: and the auxiliary task."""
TaskName: TypeAlias = Literal["copy", "repeat_copy", "shakespeare", "wikitext2"]
Learner: TypeAlias = TruncatedBPTT | RecurrentDNI


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    task: TaskName
    method: Method
    horizon: int
    """T, steps."""
    full: bool = False
    """Measured only when it is asked for, or with --full."""

    @property
    def name(self) -> str:
        return f"{self.task}_{self.method}_{self.horizon}"


@dataclass(frozen=True, kw_only=True)
class Copying:
    """Copy and Repeat Copy: a span is a whole sequence, and the weights move once after each batch of them."""

    hidden: int = 128
    """Units of the LSTM."""
    batch_size: int = 32
    rate: float = 2e-3
    """Adam's, of the network."""
    budget: int = 60_000
    """Steps of the network, each for a batch; the run ends after the sequence in which they are spent."""
    injection: float = 0.1
    """By what the synthetic gradient is multiplied; the paper's."""
    synthesizer_rate: float = 2e-3
    """Adam's, of the synthesizer and of the auxiliary task's network."""
    auxiliary: float = 0.1
    """Weight of the auxiliary task, in its rows."""


@dataclass(frozen=True, kw_only=True)
class Characters:
    """The character model: `batch_size` places of the text are read on from, and the weights move after each span."""

    hidden: int = 128
    """Units of the LSTM."""
    embedding: int = 64
    """Numbers that stand for a symbol."""
    batch_size: int = 32
    span: int = 40
    """Steps from one update to the next, for every method and horizon."""
    rate: float = 2e-3
    """Adam's, of the network."""
    budget: int = 80_000
    """Steps of the network, each for a batch."""
    injection: float = 0.1
    """By what the synthetic gradient is multiplied; the paper's."""
    synthesizer_rate: float = 1e-3
    """Adam's, of the synthesizer and of the auxiliary task's network."""
    auxiliary: float = 0.1
    """Weight of the auxiliary task, in its rows."""


COPYING = Copying()
CHARACTERS = Characters()


def _rows() -> Iterator[Row]:
    methods: tuple[Method, ...] = ("bptt", "dni", "aux")
    tasks: tuple[TaskName, ...] = ("copy", "repeat_copy")
    for task in tasks:
        for method in methods:
            yield from (Row(task=task, method=method, horizon=horizon) for horizon in (2, 3, 4, 5))
    texts: tuple[TaskName, ...] = ("shakespeare", "wikitext2")
    for task in texts:
        yield from (Row(task=task, method="bptt", horizon=horizon) for horizon in (8, 20, 40))
        yield from (Row(task=task, method=method, horizon=8) for method in methods[1:])
        for method in methods:
            yield from (Row(task=task, method=method, horizon=horizon, full=True) for horizon in (2, 3, 4, 5))


ROWS = {row.name: row for row in _rows()}
"""By name, in the order of the table."""


class Model(nn.Module):
    """An LSTM that reads vectors, or symbols through an embedding, and gives a linear function of its output."""

    def __init__(self, embed: nn.Module, *, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.embed = embed
        self.lstm = nn.LSTM(inputs, hidden)
        self.readout = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, state: Members | None = None) -> tuple[Tensor, Members]:
        """(steps, N, ...) to (steps, N, outputs), and the state."""
        y, end = self.lstm(self.embed(x), state)
        return self.readout(y), end


def make_learner(row: Row, model: Model, settings: Copying | Characters, *, seed: int) -> Learner:
    """What gives the model its gradients in this row."""
    if row.method == "bptt":
        return TruncatedBPTT(model, horizon=row.horizon)
    return RecurrentDNI(
        model,
        "linear",
        horizon=row.horizon,
        injection=settings.injection,
        auxiliary=settings.auxiliary if row.method == "aux" else 0.0,
        optimizer=partial(torch.optim.Adam, lr=settings.synthesizer_rate),
        seed=seed,
    )
