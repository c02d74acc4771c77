"""Which rows does the table have, and what do all of them share?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = ["ROWS", "SEEDS", "Row", "Settings"]


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    shots: int
    """Labelled samples of each class of a task."""
    num_steps: int
    """K, synthetic-gradient steps on the queries; 0: the class means classify."""


ROWS: Mapping[str, Row] = {f"{shots}shot_k{k}": Row(shots, k) for shots in (1, 5) for k in (0, 1, 3, 5)}
SEEDS = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all rows share."""

    channels: int = 32
    """Of each of the four convolutions; the number of features, since 28 halves four times to 1."""
    epochs: int = 4
    """Through the training characters, for the feature network."""
    feature_batch_size: int = 128
    """Drawings."""
    feature_rate: float = 4e-3
    """Adam's, the peak of one cycle."""
    num_classes: int = 5
    """Characters of a task."""
    num_queries: int = 15
    """Unlabelled drawings of each of them."""
    tasks_per_batch: int = 8
    """Training tasks to an update of the classifier."""
    batches: int = 2000
    """Updates of the classifier."""
    rate: float = 1e-3
    """Adam's for w, s, b and ξ."""
    step_rates: tuple[float, ...] = (1e-3, 1e-2)
    """Candidates for η; the one with the best accuracy on validation tasks is tested."""
    validation_tasks: int = 1000
    test_tasks: int = 2000

    def scaled(self, fraction: float) -> Settings:
        """As much of everything that takes time, one at least."""
        names = ("epochs", "batches", "validation_tasks", "test_tasks")
        return replace(self, **{name: math.ceil(fraction * getattr(self, name)) for name in names})
