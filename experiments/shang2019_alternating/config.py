"""Which rows of Shang & Zhang 2019 are measured, at which size?

An epoch is the paper's unit of the schedule: restarts come after 5, 10, 20, ... epochs. At the size that two cores can
train it is a fortieth of the run and not a pass over the text; an update is a span of K windows of T steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch

from dni import Constant, CosineRestarts, InTurn, RecurrentDNI, Schedule, Synthesizer, doubling_restarts
from experiments.shang2019_alternating.model import ElementWise, LanguageModel
from experiments.shang2019_alternating.truncated import TruncatedBPTT

__all__ = [
    "FULL",
    "ROWS",
    "SMALL",
    "Learner",
    "Method",
    "Row",
    "Settings",
    "injection",
    "make_learner",
    "rate_schedule",
]

Method: TypeAlias = Literal["real", "synthetic", "alternating"]
"""real: truncated. synthetic: a synthetic gradient where it is truncated. alternating: in turns, at each restart."""
Learner: TypeAlias = TruncatedBPTT | RecurrentDNI


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that rows of one size have in common."""

    embedding: int = 64
    """Numbers that stand for a word, where it is read and where it is predicted."""
    hidden: int = 200
    """Units of an LSTM layer."""
    num_layers: int = 1
    cutoffs: tuple[int, ...] = (2000, 10000)
    """Where the adaptive softmax cuts the words, the most frequent first."""
    batch_size: int = 20
    """Places of the text that are read on from."""
    horizon: int = 5
    """T, steps that a gradient reaches back at most."""
    span: int = 20
    """Steps from one update to the next, in every row."""
    num_epochs: int = 40
    first_restart: int = 5
    """In epochs; each of the next comes after twice as many."""
    updates_per_epoch: int = 50
    rate: float = 1.6e-2
    """Adam's, of the network, after each restart."""
    constant_rate: float = 8e-3
    """Adam's, of the network, in rows without restarts."""
    weight_decay: float = 1.2e-6
    clip: float = 0.25
    """Largest norm of the gradient per word."""
    injection: float = 0.1
    """By what a synthetic gradient is multiplied where it acts."""
    discount: float = 0.1
    """By what it is multiplied in what the synthesizer learns."""
    synthesizer_rate: float = 1e-3
    """Adam's, of the synthesizer."""
    synthesizer_hidden: int = 50

    @property
    def num_updates(self) -> int:
        return self.num_epochs * self.updates_per_epoch

    @property
    def restarts(self) -> tuple[int, ...]:
        """In updates."""
        return doubling_restarts(self.first_restart * self.updates_per_epoch, total=self.num_updates)


SMALL = Settings()
FULL = Settings(embedding=256, hidden=650, num_layers=2, updates_per_epoch=5221, rate=2e-3, constant_rate=1e-3)
"""An epoch is a pass over the text. Its rates were not searched for."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    title: str
    method: Method
    restarts: bool = True
    """Whether the rate falls along a cosine and is restarted; else it is constant."""
    whole_span: bool = False
    """Whether the gradient reaches back over the whole span."""
    synthesizer: Literal["element-wise", "linear"] = "element-wise"
    """The paper's, one for every number of the state; or a matrix over the whole state."""
    settings: Settings = SMALL

    @property
    def full(self) -> bool:
        """Measured only when it is asked for, or with --full."""
        return self.settings is FULL


def _rows(suffix: str, settings: Settings) -> dict[str, Row]:
    row: Callable[..., Row] = partial(Row, settings=settings)
    return {
        f"real{suffix}": row(title="real gradients", method="real", restarts=False),
        f"synthetic{suffix}": row(
            title="synthetic gradients from the second epoch", method="synthetic", restarts=False
        ),
        f"real_restarts{suffix}": row(title="real gradients, warm restarts", method="real"),
        f"synthetic_restarts{suffix}": row(title="synthetic from the second epoch, warm restarts", method="synthetic"),
        f"alternating{suffix}": row(title="alternating at warm restarts", method="alternating"),
        f"synthetic_linear{suffix}": row(
            title="synthetic, linear synthesizer, warm restarts", method="synthetic", synthesizer="linear"
        ),
        f"alternating_linear{suffix}": row(
            title="alternating, linear synthesizer", method="alternating", synthesizer="linear"
        ),
        f"long_restarts{suffix}": row(
            title="real gradients over the whole span, warm restarts", method="real", whole_span=True
        ),
    }


ROWS: Mapping[str, Row] = {**_rows("", SMALL), **_rows("_full", FULL)}
"""By name, in the order of the table."""


def rate_schedule(row: Row, settings: Settings) -> Schedule:
    """By what the network's rate is multiplied at an update."""
    return CosineRestarts(settings.restarts, total=settings.num_updates) if row.restarts else Constant()


def injection(row: Row, settings: Settings) -> InTurn:
    """By what the synthetic gradient is multiplied at an update; at 0 the synthesizer learns and does not act."""
    at = settings.restarts if row.method == "alternating" else (settings.updates_per_epoch,)
    return InTurn(at, factors=(0.0, settings.injection))


def make_learner(row: Row, settings: Settings, model: LanguageModel, *, seed: int) -> Learner:
    """What gives the model its gradients in this row."""
    if row.method == "real":
        return TruncatedBPTT(model, horizon=settings.span if row.whole_span else settings.horizon)
    return RecurrentDNI(
        model,
        _synthesizer(row, settings),
        horizon=settings.horizon,
        injection=injection(row, settings),
        discount=settings.discount,
        optimizer=partial(torch.optim.Adam, lr=settings.synthesizer_rate, weight_decay=settings.weight_decay),
        seed=seed,
    )


def _synthesizer(row: Row, settings: Settings) -> Synthesizer:
    if row.synthesizer == "linear":
        return "linear"
    return lambda rows, num_context: ElementWise(hidden=settings.synthesizer_hidden)
