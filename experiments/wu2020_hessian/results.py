"""What has been measured so far?

results.jsonl has a line for each model, with its layers; pairs.jsonl one for each two arms and each layer. Both are
only ever appended to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.records import newest, read_records
from experiments.wu2020_hessian.config import ARMS, NETWORKS
from experiments.wu2020_hessian.layer import Look, Numbers

__all__ = ["FOLDER", "PAIRS", "RESULTS", "Model", "Pair", "read_models", "read_pairs"]

FOLDER = Path(__file__).parent
RESULTS = "results.jsonl"
PAIRS = "pairs.jsonl"


@dataclass(frozen=True, kw_only=True)
class Model:
    """One network, trained in one way from one seed."""

    network: str
    arm: str
    seed: int
    steps: int
    loss: float
    """On the samples whose loss is looked at."""
    test_accuracy: float
    """A fraction."""
    looks: tuple[Look, ...]
    """By layer."""
    train_s: float
    """Of a core."""
    look_s: float
    """Of a core."""
    machine: dict[str, Any]

    @property
    def key(self) -> tuple[str, str, int]:
        return self.network, self.arm, self.seed


@dataclass(frozen=True, kw_only=True)
class Pair:
    """How far the top directions of one layer agree in models of two arms. A pair of models is two with different
    seeds; or, where the arms differ, with the same one."""

    network: str
    first: str
    second: str
    layer: int
    rows: int
    columns: int
    same_seed: bool
    """Whether the two began with the same weights."""
    curve: Numbers
    """The overlap of the top k directions for k = 1, 2, ... 2 m, the mean over the pairs of models."""
    at_classes: Numbers
    """At k = c, of each pair of models."""
    at_rows: Numbers
    """At k = m."""
    machine: dict[str, Any]

    @property
    def key(self) -> tuple[str, str, str, int, bool]:
        return self.network, self.first, self.second, self.layer, self.same_seed


def read_models(path: Path = FOLDER / RESULTS) -> list[Model]:
    """The newest line of each model, in the order of networks, arms and seeds."""
    found = newest(read_records(_model, path), lambda model: model.key)
    return _ordered(found)


def read_pairs(path: Path = FOLDER / PAIRS) -> list[Pair]:
    """The newest line of each, in the order of their keys."""
    return newest(read_records(Pair, path), lambda pair: pair.key)


def _model(looks: Iterable[dict[str, Any]], **line: Any) -> Model:
    return Model(looks=tuple(Look(**look) for look in looks), **line)


def _ordered(models: Iterable[Model]) -> list[Model]:
    networks, arms = list(NETWORKS), list(ARMS)
    return sorted(models, key=lambda own: (networks.index(own.network), arms.index(own.arm), own.seed))
